"""Assets that move: a static one wrapped with its motion, and taken out of it again."""

from __future__ import annotations

from typing import Any

from renderers.base import Renderer
from renderers.dynamic import DynamicRenderer
from renderers.motion.base import build_motion
from renderers.motion.handles import handle_of
from sds3d.config import Recipe
from systems.randomness import generator_for

INNER = "inner."
"""Prefix of the static asset's values in the state of one that moves."""


def still(renderer: Renderer) -> Renderer:
    """Return the static asset inside one that moves; others are returned as they are."""
    return renderer.inner if isinstance(renderer, DynamicRenderer) else renderer


def inner_state(saved: dict[str, Any]) -> dict[str, Any]:
    """Return the values of the static asset in a checkpoint of one that moves."""
    return {name.removeprefix(INNER): value for name, value in saved.items() if name.startswith(INNER)}


def moving(
    inner: Renderer, recipe: Recipe, number: int, known: dict[str, Any] | Renderer | None = None
) -> DynamicRenderer:
    """Return asset `number` of a stage with its motion, at rest everywhere.

    Args:
        known: a checkpoint's values, or the asset before: if that moved in the same way, its motion goes on.
    Raises: ConfigError if this kind of asset has no points that could move.
    """
    motion = recipe.motion
    assert motion is not None
    generator = generator_for(recipe.seed, "start", number)
    made = build_motion(motion, handle_of(inner).points().detach(), generator)
    wanted = [name for name, weight in recipe.regularisers.items() if max(weight.values) > 0]
    asset = DynamicRenderer(inner, made, is_frozen=motion.frozen, wanted=wanted, is_deferred=motion.deferred)
    if isinstance(known, dict):
        asset.load_state_dict(known)
    elif isinstance(known, DynamicRenderer) and _shapes(known.motion) == _shapes(made):
        made.load_state_dict(known.motion.state_dict())
    return asset


def _shapes(motion: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in motion.state_dict().items()}
