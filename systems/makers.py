"""How the asset of each kind of renderer comes to be: fresh, from a checkpoint, or from the asset of another stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from renderers.base import Renderer
from sds3d.config import Recipe
from systems import clouds, generator_make, materials, strokes, surfaces, volumes
from systems.latents import latents_of


@dataclass(frozen=True, kw_only=True)
class Maker:
    """The three ways to an asset, all on the CPU; `number` counts assets made together, from 0.

    Args:
        fresh: (recipe, number, prior) -> asset at the start of a run. Raises: AssetError if its file cannot be read.
        restore: (recipe, state_dict, number) -> asset of a checkpoint.
        take_over: (recipe, asset before, its recipe, number, prior) -> the same object in this representation.
        asks_prior: (recipe, whether there is an asset before) -> whether the first or the third needs the prior; where
            not, it may be left out, so that a start that cannot be read fails before weights are loaded.
    """

    fresh: Callable[..., Renderer]
    restore: Callable[[Recipe, dict[str, Any], int], Renderer]
    take_over: Callable[..., Renderer]
    asks_prior: Callable[[Recipe, bool], bool] = lambda recipe, has_before: False


MAKERS: dict[str, Maker] = {
    "gaussians": Maker(
        fresh=clouds.fresh,
        restore=clouds.restore,
        take_over=clouds.take_over,
        asks_prior=lambda recipe, has_before: clouds.starts_from_views(recipe) and not has_before,
    ),
    "nerf": Maker(
        fresh=volumes.fresh,
        restore=volumes.restore,
        take_over=volumes.take_over,
        asks_prior=lambda recipe, has_before: latents_of(recipe),
    ),
    "mesh": Maker(fresh=surfaces.fresh, restore=surfaces.restore, take_over=surfaces.take_over),
    "pbr_mesh": Maker(fresh=materials.fresh, restore=materials.restore, take_over=materials.take_over),
    "sketch": Maker(fresh=strokes.fresh, restore=strokes.restore, take_over=strokes.take_over),
    "sdf": Maker(fresh=volumes.fresh, restore=volumes.restore, take_over=volumes.take_over),
    "triplane": Maker(fresh=generator_make.fresh, restore=generator_make.restore, take_over=generator_make.take_over),
}
"""By the `kind` of a recipe's renderer."""
