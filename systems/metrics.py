"""The numbers of metrics.json: how training went, and what the judge says about the asset."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from renderers.base import Renderer
from sds3d.config import Recipe
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS
from systems.assets import around
from systems.pictures import draw

if TYPE_CHECKING:
    from systems.base import DistillationSystem

VIEWS, GREY = 8, 0.5
"""Views around the object, and the background the judge's scores are measured on."""


def words_of(prompt: str) -> tuple[str, str] | None:
    """Return the (noun, colour) of a prompt that names exactly one of each that the toybox knows, else None."""
    words = re.findall(r"[a-z]+", prompt.lower())
    nouns = {word for word in words if word in NOUNS}
    colours = {word for word in words if word in COLORS}
    return (nouns.pop(), colours.pop()) if len(nouns) == len(colours) == 1 else None


def training_metrics(system: DistillationSystem) -> dict[str, Any]:
    """Return the numbers of the training: a row for about every hundredth part of the run, and where it stands.

    No times: with the same seed on the same machine the result repeats bit by bit.
    """
    count = len(next(iter(system.renderer.parameters())))
    newest = {name: value for row in system.history for name, value in row.items() if name != "step"}
    final = {"steps_done": system.steps_done, "gaussians": count, **newest}
    return {"seed": system.recipe.seed, "steps": system.history, "final": {**final, "gaussians": count}}


def verdict(renderer: Renderer, recipe: Recipe) -> dict[str, Any]:
    """Return the judge's verdict as plain data, or {"skipped": why}.

    noun_accuracy, color_accuracy: share of `VIEWS` turntable views (64 px) recognised as the prompt's words;
    azimuth_within_45: share of them whose azimuth is told within 45 degrees, None for nouns that look alike all round.
    Limits: the judge chooses among its words and is easily pleased; look at the pictures as well.
    """
    wanted = words_of(recipe.prompt.text)
    if wanted is None:
        return {"skipped": "the prompt does not name exactly one noun and one colour of the toybox"}
    from sds3d.toybox.judge import azimuth_error, default_judge, load_judge

    if not (default_judge() / "judge.safetensors").is_file():
        return {"skipped": "the judge (assets/judge) is not installed"}
    noun, colour = wanted
    cameras = around(recipe, VIEWS, 64)
    images, _ = draw(renderer, cameras, GREY)
    said = load_judge().verdict(images)
    right = (azimuth_error(said["azimuth_deg"], cameras.azimuth_deg) <= 45.0).float().mean()
    return {
        "noun": noun,
        "color": colour,
        "views": VIEWS,
        "noun_accuracy": float((said["noun"] == NOUNS.index(noun)).float().mean()),
        "color_accuracy": float((said["color"] == list(COLORS).index(colour)).float().mean()),
        "azimuth_within_45": float(right) if noun in ASYMMETRIC else None,
        "said_nouns": [NOUNS[index] for index in said["noun"].tolist()],
        "said_colors": [list(COLORS)[index] for index in said["color"].tolist()],
    }
