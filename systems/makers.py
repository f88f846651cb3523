"""How the asset of each kind of renderer comes to be: fresh, from a checkpoint, or from the asset of another stage."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from renderers.base import Renderer
from sds3d.config import Recipe
from systems import clouds, surfaces, volumes


@dataclass(frozen=True, kw_only=True)
class Maker:
    """The three ways to an asset, all on the CPU; `number` counts assets made together, from 0.

    Args:
        fresh: (recipe, number) -> asset at the start of a run. Raises: AssetError if its file cannot be read.
        restore: (recipe, state_dict, number) -> asset of a checkpoint.
        take_over: (recipe, asset before, its recipe, number) -> the same object in this representation.
    """

    fresh: Callable[[Recipe, int], Renderer]
    restore: Callable[[Recipe, dict[str, Any], int], Renderer]
    take_over: Callable[[Recipe, Renderer, Recipe, int], Renderer]


MAKERS: dict[str, Maker] = {
    "gaussians": Maker(fresh=clouds.fresh, restore=clouds.restore, take_over=clouds.take_over),
    "nerf": Maker(fresh=volumes.fresh, restore=volumes.restore, take_over=volumes.take_over),
    "mesh": Maker(fresh=surfaces.fresh, restore=surfaces.restore, take_over=surfaces.take_over),
    "sdf": Maker(fresh=volumes.fresh, restore=volumes.restore, take_over=volumes.take_over),
}
"""By the `kind` of a recipe's renderer."""
