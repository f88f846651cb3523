"""Keys of a recipe about its words. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from sds3d.config.base import Config
from sds3d.prompts import BETTER, WORSE, Prompt, ViewWords


class PromptConfig(Config):
    """Which words hold from where."""

    text: str = Field(default="", max_length=2000, description="what to make, e.g. 'a red mug'")
    negative: str = Field(
        default="", max_length=2000, description="what to move away from; empty means nothing special"
    )
    view_dependent: bool = Field(
        default=True, description="append 'front view', 'side view', ... to the prompt according to the camera"
    )
    words: ViewWords = Field(
        default_factory=ViewWords, description="where 'front', 'back' and 'overhead' begin, and how they are worded"
    )
    source: str = Field(
        default="", max_length=2000, description="what the start of the run shows, for methods that edit (dds, pds)"
    )
    better: str = Field(
        default=BETTER, max_length=2000, description="appended to the prompt for a good picture (bridge)"
    )
    worse: str = Field(default=WORSE, max_length=2000, description="appended to the prompt for a bad picture (bridge)")
    debias: str = Field(
        default="",
        max_length=1000,
        description="folder of a BERT language model: views lose the words that contradict them (D-SDS); empty: off",
    )
    debias_words: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None, description="places of the words that may be left out, the first being 0; null: all of them"
    )

    @model_validator(mode="after")
    def _check_debias(self) -> PromptConfig:
        if self.debias and (self.words.templates or not self.view_dependent):
            raise ValueError(
                f"debias='{self.debias}' chooses words for each view, but words.templates are given or view_dependent "
                "is false. Take out one of the two."
            )
        return self

    def build(self) -> Prompt:
        """Return the prompt; raises ConfigError if the text is empty."""
        return Prompt(
            text=self.text,
            negative=self.negative,
            view_dependent=self.view_dependent,
            words=self.words,
            source=self.source,
            better=self.better,
            worse=self.worse,
        )
