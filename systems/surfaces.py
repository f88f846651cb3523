"""The meshes of a recipe: fresh, from a file, from a checkpoint, from the asset of another stage."""

from __future__ import annotations

from typing import Any

from renderers.base import Renderer
from renderers.sdf import SdfRenderer
from renderers.surface import SurfaceRenderer
from renderers.surface_conversion import from_field, from_mesh, surface_renderer
from sds3d.config import Recipe
from sds3d.config.surface import SHAPES
from sds3d.priors.base import Prior
from systems.randomness import generator_for


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> SurfaceRenderer:
    """Return the mesh of asset `number` at its start. Raises: AssetError if its file cannot be read."""
    config, generator = recipe.renderer, generator_for(recipe.seed, "start", number)
    if config.init in SHAPES:
        return surface_renderer(config, generator)
    from sds3d.export.start import read_start_mesh

    return from_mesh(read_start_mesh(config.init, config.init_size)[0], config, generator)


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> SurfaceRenderer:
    """Return asset `number` with everything `saved` by its `state_dict`."""
    config = recipe.renderer
    if config.geometry in ("fixed", "offsets"):  # the checkpoint brings its own triangles, so begin with few
        config = config.model_copy(update={"resolution": 8})
    renderer = surface_renderer(config, generator_for(recipe.seed, "start", number))
    renderer.load_state_dict(saved)
    return renderer


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> SurfaceRenderer:
    """Return the mesh of the stage before, as it is where its geometry stays, else with its surface and its colours."""
    config, generator = recipe.renderer, generator_for(recipe.seed, "start", number)
    if isinstance(before, SurfaceRenderer) and _same_parts(config, made_by.renderer):
        renderer = restore(recipe, before.state_dict(), number)
        renderer.steps = 0
        return renderer
    if isinstance(before, SdfRenderer):
        return from_field(before.sdf_at, before.color_at, config, generator, kind="sdf")
    from systems.assets import mesh_of

    return from_mesh(mesh_of(before, made_by), config, generator)


def _same_parts(config: Any, old: Any) -> bool:
    """Return whether two configurations have geometry and texture of the same shapes."""
    parts = ("geometry", "resolution", "radius", "deform", "texture")
    return all(getattr(config, part) == getattr(old, part) for part in parts)
