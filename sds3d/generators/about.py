"""What the file of a generator says of itself, read without torch and without its weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import AssetError

FORMAT = "sds3d-generator-1"


@dataclass(frozen=True, kw_only=True)
class About:
    """The header of a file that 'train' wrote.

    Args:
        recipe: what it was trained with.
        base: fingerprint of the model it reads prompts with, "" for none.
        steps: optimiser steps it was trained for.
        words: the words of the prompts it was trained on; empty where they were too many, or are not known.
    """

    recipe: GeneratorRecipe
    base: str
    steps: int
    words: tuple[str, ...] = ()

    def header(self) -> dict[str, str]:
        """Return the entries of the file's header."""
        return {
            "format": FORMAT, "recipe": self.recipe.model_dump_json(), "base": self.base, "steps": str(self.steps),
            "words": " ".join(self.words),
        }  # fmt: skip


def read_about(path: Path) -> About:
    """Return what a file says of itself. Raises: AssetError if it is missing, broken or something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "numpy") as stored:
            about: dict[str, Any] = stored.metadata() or {}
    except FileNotFoundError as error:
        raise AssetError(
            f"The generator '{path}' does not exist. Train one with 'train', or name its file.", path
        ) from error
    except (OSError, SafetensorError) as error:
        raise AssetError(
            f"The generator '{path}' cannot be read ({error}). A .safetensors file that 'train' wrote is needed.", path
        ) from error
    if about.get("format") != FORMAT:
        raise AssetError(
            f"'{path}' is a safetensors file of another kind (format {about.get('format')}); {FORMAT} is needed. Give the "
            "file that 'train' wrote.",
            path,
        )
    recipe = GeneratorRecipe.model_validate(json.loads(about["recipe"]))
    words = tuple(about.get("words", "").split())
    return About(recipe=recipe, base=about["base"], steps=int(about["steps"]), words=words)


def words_of(prompts: Iterable[str], most: int = 300) -> tuple[str, ...]:
    """Return the words of the prompts in alphabetic order, none if there are more than `most`."""
    words: set[str] = set()
    for prompt in prompts:
        words |= set(_split(prompt))
        if len(words) > most:
            return ()
    return tuple(sorted(words))


def _split(prompt: str) -> list[str]:
    bare = (word.strip(".,;:!?\"'()").lower() for word in prompt.split())
    return [word for word in bare if word]


def unknown_words(prompt: str, about: About) -> str:
    """Return a warning that names the words of `prompt` the generator was not trained on; "" if there are none."""
    unknown = [word for word in dict.fromkeys(_split(prompt)) if about.words and word not in about.words]
    if not unknown:
        return ""
    named = ", ".join(f"'{word}'" for word in unknown)
    return (
        f"Warning: the generator was not trained on {named}, so expect something else. Words it knows: "
        f"{', '.join(about.words)}. For others leave --instant or --weights out, so that the asset is optimised."
    )
