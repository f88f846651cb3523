"""The Gaussians of a recipe: where they start, how their density is controlled, how a checkpoint brings them back."""

from __future__ import annotations

from typing import Any

import torch

from renderers.base import Renderer
from renderers.gaussians import initialise
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.parameters import Gaussians, empty
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.config import Recipe
from sds3d.config.gaussians import FROM_VIEWS
from sds3d.export.splats import Splats
from sds3d.export.start import read_start
from sds3d.meshing.points import Points
from sds3d.priors.base import Prior
from systems.randomness import generator_for

INITIAL_SHAPES = {"ball": initialise.ball, "shell": initialise.shell}


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> GaussianRenderer:
    """Return asset `number` at its start; a start from views needs the `prior` that draws them.

    Raises: AssetError if it is to come from a file that cannot be read.
    """
    if starts_from_views(recipe) and prior is not None:
        from systems.view_start import gaussians_from_views

        return GaussianRenderer(gaussians_from_views(recipe, prior, number), _settings(recipe, number))
    return GaussianRenderer(initial_gaussians(recipe, number), _settings(recipe, number))


def starts_from_views(recipe: Recipe) -> bool:
    """Return whether the Gaussians of `recipe`, one stage, are fitted to pictures of the prior."""
    return recipe.renderer.kind == "gaussians" and recipe.renderer.init == FROM_VIEWS


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> GaussianRenderer:
    """Return asset `number` with the parameters `saved` by its `state_dict`."""
    renderer = GaussianRenderer(empty(len(saved["means"]), saved["means"]), _settings(recipe, number))
    renderer.load_state_dict(saved)
    return renderer


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> GaussianRenderer:
    """Return the Gaussians of the stage before, or Gaussians on the surface of another kind of asset."""
    if isinstance(before, GaussianRenderer):
        return restore(recipe, before.state_dict(), number)
    from sds3d.meshing.points import points_on
    from systems.assets import mesh_of

    generator = generator_for(recipe.seed, "start", number)
    points = points_on(
        mesh_of(before, made_by), recipe.renderer.count, int(torch.randint(2**31, (), generator=generator))
    )
    return GaussianRenderer(_on_surface(recipe, points, generator), _settings(recipe, number))


def _settings(recipe: Recipe, number: int) -> GaussianSettings:
    config = recipe.renderer
    return GaussianSettings(
        backend=config.backend,
        rasterize_mode=config.rasterize_mode,
        largest_scale=config.largest_scale,
        density=density_settings(recipe, number),
    )


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
    return _on_surface(recipe, start, generator)


def _on_surface(recipe: Recipe, points: Points, generator: torch.Generator) -> Gaussians:
    """Return Gaussians at points, as large as their distances."""
    positions, colours = torch.from_numpy(points.positions), torch.from_numpy(points.colors)
    return initialise.from_points(positions, colours, generator, opacity=recipe.renderer.init_opacity)
