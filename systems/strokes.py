"""The sketches of a recipe: fresh, from a file, from a checkpoint, from the asset of another stage."""

from __future__ import annotations

from typing import Any, cast

import torch

from renderers.base import Renderer
from renderers.sketch.factory import from_mesh, from_state, sketch_renderer, strokes_of
from renderers.sketch.renderer import SketchRenderer
from sds3d.config import Recipe
from sds3d.config.sketch import SketchConfig
from sds3d.priors.base import Prior
from systems.randomness import generator_for


def steps_of(recipe: Recipe) -> int:
    """Return how many steps each asset of `recipe`, one stage, is trained for: assets made together take turns."""
    return max(recipe.training.steps // recipe.training.particles, 1)


def _config(recipe: Recipe) -> SketchConfig:
    return cast(SketchConfig, recipe.renderer)  # whose kind chose this file


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> SketchRenderer:
    """Return sketch `number` at its start. Raises: AssetError if its file cannot be read."""
    return sketch_renderer(_config(recipe), generator_for(recipe.seed, "start", number), steps=steps_of(recipe))


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> SketchRenderer:
    """Return sketch `number` with everything `saved` by its `state_dict`."""
    return from_state(saved, _config(recipe), steps=steps_of(recipe))


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> SketchRenderer:
    """Return the strokes of the stage before, or strokes along the edges and outlines of another kind of asset.

    Strokes that were dropped stay behind; the schedules of this stage begin anew.
    Raises: AssetError if the surface of the asset has no edges and outlines.
    """
    config, generator = _config(recipe), generator_for(recipe.seed, "start", number)
    if isinstance(before, SketchRenderer):
        as_it_is = config.model_copy(update={"init_size": None})
        seed = int(torch.randint(2**31, (), generator=generator))
        return SketchRenderer(strokes_of(before.to_sketch(), as_it_is), config, steps=steps_of(recipe), seed=seed)
    from systems.assets import mesh_of

    return from_mesh(mesh_of(before, made_by), config, generator, steps=steps_of(recipe))
