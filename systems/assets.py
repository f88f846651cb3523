"""From a trained asset to the files of `export/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from renderers.base import Renderer
from renderers.dynamic import DynamicRenderer
from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.renderer import GaussianRenderer
from renderers.pbr_mesh import PbrMeshRenderer
from sds3d.cameras import Cameras, turntable
from sds3d.config import Recipe
from sds3d.config.export import SPLAT_FORMATS, refusal
from sds3d.errors import ConfigError
from sds3d.export import FORMATS
from sds3d.export.images import write_png
from sds3d.export.sheet import write_contact_sheet
from sds3d.export.splat_files import write_splats
from sds3d.export.splats import Splats
from sds3d.meshing.mesh import Mesh
from sds3d.run import RunFolder
from systems.drawings import is_sketch_file, sketch_of, write_sketch
from systems.pictures import draw, film

MESHES, FILMS = ("glb", "obj", "mesh_ply", "stl", "usdz"), ("mp4", "gif")
CONTACT_VIEWS, CONTACT_COLUMNS = 8, 4
OUTLINE_VIEWS, OUTLINE_SIZE = 8, 64
"""Views from which the mesher learns how much of the soft rim of the splats belongs to the object."""
WHITE = 1.0


def splats_of(renderer: Renderer) -> Splats:
    """Return the renderer's Gaussians as plain arrays. Raises: ConfigError for another kind of asset."""
    if not isinstance(renderer, GaussianRenderer):
        raise ConfigError(
            "This asset is no cloud of Gaussians, so it cannot be written as splats (ply, spz, splat, splat_glb). Write "
            "glb, obj, mesh_ply or stl, or end the recipe with a stage whose renderer.kind is gaussians.",
            "export.formats",
        )
    return Splats(**{name: getattr(renderer, name).detach().cpu().numpy() for name in GROUPS})


def around(recipe: Recipe, views: int, size: int, elevation_deg: float = 20.0) -> Cameras:
    """Return cameras around the object at the recipe's mean distance, the first one at its front."""
    return turntable(views, size, elevation_deg, sum(recipe.cameras.distance) / 2, recipe.cameras.fov_deg)


def write_assets(renderer: Renderer, recipe: Recipe, run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write the asset in each of `formats` (keys of `sds3d.export.FORMATS`) and return the files.

    The mesh and the pictures of the turn are made once, however many formats hold them.
    Raises: ConfigError if a format does not suit the asset; nothing is written then.
    """
    message = refusal(formats, recipe.renderer.kind)
    if message is not None:
        raise ConfigError(message, "export.formats")
    if isinstance(renderer, DynamicRenderer):
        from systems.moving_files import write_moving

        return write_moving(renderer, recipe, run, formats)
    mesh, turn = cache(partial(export_mesh, renderer, recipe)), cache(partial(turn_of, renderer, recipe))
    files: list[Path] = []
    for name in formats:
        if is_sketch_file(name, renderer):
            files += write_sketch(name, run.export, sketch_of(renderer, recipe), recipe)
        else:
            files.append(_write(name, run.export / FORMATS[name].file_name, renderer, recipe, mesh, turn))
    if isinstance(renderer, PbrMeshRenderer) and set(formats) & set(FILMS):
        from systems.relighting import write_light_turn_of

        files.append(write_light_turn_of(renderer, recipe, run.export))
    return files


def _write(
    name: str,
    path: Path,
    renderer: Renderer,
    recipe: Recipe,
    mesh: Callable[[], Mesh],
    turn: Callable[[], NDArray[Any]],
) -> Path:
    if name in SPLAT_FORMATS:
        return write_splats(path, splats_of(renderer))
    if name in MESHES:
        from sds3d.export.mesh import write_mesh

        return write_mesh(path, mesh())
    if name in FILMS:
        from sds3d.export.video import write_turntable

        return write_turntable(path, turn())
    return _contact_sheet(renderer, recipe, path)


def mesh_of(renderer: Renderer, recipe: Recipe) -> Mesh:
    """Return the mesh of the asset with the resolution and the number of triangles of the recipe."""
    resolution, faces = recipe.export.mesh_resolution, recipe.export.mesh_faces
    if not isinstance(renderer, GaussianRenderer):
        return renderer.to_mesh(resolution, faces)
    from sds3d.meshing.from_splats import Silhouettes, mesh_from_splats

    cameras = around(recipe, OUTLINE_VIEWS, OUTLINE_SIZE)
    _, alpha = draw(renderer, cameras, WHITE)
    return mesh_from_splats(splats_of(renderer), resolution, faces, Silhouettes(alpha, cameras))


def export_mesh(renderer: Renderer, recipe: Recipe) -> Mesh:
    """Return the mesh that is written to files, with a texture if the recipe wants one and the asset has colours for it."""
    mesh = mesh_of(renderer, recipe)
    if not recipe.export.texture_size:
        return mesh
    from systems.texturing import textured

    return textured(renderer, mesh, recipe.export.texture_size)


def turn_of(renderer: Renderer, recipe: Recipe) -> NDArray[np.uint8]:
    """Return the pictures of one turn around the asset."""
    return film(renderer, around(recipe, recipe.export.turntable_views, recipe.export.size), WHITE)


def write_views(
    renderer: Renderer, recipe: Recipe, run: RunFolder, views: int, size: int, elevation_deg: float
) -> list[Path]:
    """Write `views` pictures around the asset as a film, and the first of them as PNG; return both files."""
    from sds3d.export.video import write_turntable

    pictures = film(renderer, around(recipe, views, size, elevation_deg), WHITE)
    stem = run.export / f"render-{views}x{size}px-elevation{elevation_deg:g}"
    files = [write_png(f"{stem}.png", pictures[0])]
    return [write_turntable(f"{stem}.mp4", pictures), *files] if views > 1 else files


def _contact_sheet(renderer: Renderer, recipe: Recipe, path: Path) -> Path:
    cameras = around(recipe, CONTACT_VIEWS, recipe.export.size)
    labels = [f"{angle:.0f} deg" for angle in cameras.azimuth_deg.tolist()]
    return write_contact_sheet(path, film(renderer, cameras, WHITE), CONTACT_COLUMNS, labels)
