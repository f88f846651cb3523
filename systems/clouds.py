"""The Gaussians of a recipe: where they start, how their density is controlled, how a checkpoint brings them back."""

from __future__ import annotations

from typing import Any

import torch

from renderers.gaussians import initialise
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.parameters import Gaussians, empty
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.config import Recipe
from sds3d.export.splats import Splats
from sds3d.export.start import read_start
from systems.randomness import generator_for

INITIAL_SHAPES = {"ball": initialise.ball, "shell": initialise.shell}


def gaussian_renderer(recipe: Recipe, saved: dict[str, Any] | None = None, number: int = 0) -> GaussianRenderer:
    """Return asset `number` of `recipe` on the CPU: fresh, or with the parameters `saved` by its `state_dict`.

    Raises: AssetError if a fresh one is to come from a file that cannot be read.
    """
    config = recipe.renderer
    settings = GaussianSettings(
        backend=config.backend,
        rasterize_mode=config.rasterize_mode,
        largest_scale=config.largest_scale,
        density=density_settings(recipe, number),
    )
    if saved is None:
        return GaussianRenderer(initial_gaussians(recipe, number), settings)
    renderer = GaussianRenderer(empty(len(saved["means"]), saved["means"]), settings)
    renderer.load_state_dict(saved)
    return renderer


def density_settings(recipe: Recipe, number: int = 0) -> DensitySettings:
    """Return the density control of asset `number`: fractions of its own steps become steps, the camera distance is the scale."""
    fields = recipe.renderer.density.model_dump()
    steps = max(recipe.training.steps // recipe.training.particles, 1)
    for name in ("start", "stop", "radius_stop"):
        fields[name] = round(fields[name] * steps)
    seed = recipe.seed + 7919 * number  # unrelated draws for assets made together
    return DensitySettings(scene_scale=sum(recipe.cameras.distance) / 2, seed=seed, **fields)


def initial_gaussians(recipe: Recipe, number: int = 0) -> Gaussians:
    """Return the cloud that asset `number` starts from. Raises: AssetError if its file cannot be read."""
    config, generator = recipe.renderer, generator_for(recipe.seed, "start", number)
    if config.init in INITIAL_SHAPES:
        shape = INITIAL_SHAPES[config.init]
        return shape(config.count, config.init_radius, generator, opacity=config.init_opacity)
    seed = int(torch.randint(2**31, (), generator=generator))
    start = read_start(config.init, config.count, seed, config.init_size)
    if isinstance(start, Splats):
        return initialise.from_splats(start)
    positions, colours = torch.from_numpy(start.positions), torch.from_numpy(start.colors)
    return initialise.from_points(positions, colours, generator, opacity=config.init_opacity)
