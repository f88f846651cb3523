"""Configuration of objects that a trained generator makes at once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from sds3d.config.base import Config
from sds3d.config.shipped import shipped
from sds3d.schedule import Schedule

BUNDLED_GENERATOR = "toybox"


class TriplaneConfig(Config):
    """Three planes of features that a generator outputs for prompt and seed. Nothing is optimised."""

    PARAMETERS: ClassVar[dict[str, str]] = {}
    LEARNING_RATES: ClassVar[dict[str, Schedule]] = {}
    REGULARISERS: ClassVar[dict[str, str]] = {}

    kind: Literal["triplane"] = Field(default="triplane", description="the object a trained generator makes at once")
    weights: str = Field(
        default=BUNDLED_GENERATOR,
        min_length=1,
        max_length=4096,
        description="the generator: 'toybox' (bundled), or a file that 'train' wrote",
    )
    backend: Literal["auto"] = Field(default="auto", description="volume rendering by torch, the only one")

    @property
    def file(self) -> Path:
        """The file of the generator, not checked."""
        is_bundled = self.weights == BUNDLED_GENERATOR
        return shipped("assets", "generators", "toybox.safetensors") if is_bundled else Path(self.weights).expanduser()

    @property
    def cites(self) -> tuple[str, ...]:
        """Works to cite, keys of `sds3d.citations`."""
        return ("triplaneturbo",)
