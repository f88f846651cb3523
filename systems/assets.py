"""From trained Gaussians to the files of `export/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.renderer import GaussianRenderer
from sds3d.cameras import Cameras, turntable
from sds3d.config import Recipe
from sds3d.export.splats import Splats, write_ply
from sds3d.run import RunFolder
from systems.pictures import draw, to_bytes, write_strip

FILES = {"ply": "splats.ply", "glb": "mesh.glb", "mp4": "turntable.mp4", "png": "contact.png"}
CONTACT_VIEWS = 8


def splats_of(renderer: GaussianRenderer) -> Splats:
    """Return the renderer's Gaussians as plain arrays."""
    return Splats(**{name: getattr(renderer, name).detach().cpu().numpy() for name in GROUPS})


def write_assets(renderer: GaussianRenderer, recipe: Recipe, run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write the asset in each of `formats` (keys of `FILES`) and return the files."""
    writers = {"ply": _ply, "glb": _glb, "mp4": _mp4, "png": _png}
    return [writers[name](renderer, recipe, run.export / FILES[name]) for name in formats]


def write_turntable(
    renderer: GaussianRenderer, recipe: Recipe, run: RunFolder, views: int, size: int, elevation_deg: float
) -> list[Path]:
    """Write a film of `views` pictures around the asset and the first of them as PNG; return both files."""
    from sds3d.export.video import write_mp4

    images, _ = draw(renderer, around(recipe, views, size, elevation_deg), 1.0)
    name = f"turntable-{size}px-{views}views"
    film = write_mp4(run.export / f"{name}.mp4", to_bytes(images))
    return [film, write_strip(run.export / f"{name}.png", images[:1])]


def around(recipe: Recipe, views: int, size: int, elevation_deg: float = 20.0) -> Cameras:
    """Return cameras around the object at the recipe's mean distance."""
    return turntable(views, size, elevation_deg, sum(recipe.cameras.distance) / 2, recipe.cameras.fov_deg)


def _ply(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    return write_ply(path, splats_of(renderer))


def _glb(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    from sds3d.export.glb import write_glb

    from sds3d.meshing.from_splats import mesh_from_splats
    from sds3d.meshing.level import Silhouettes

    cameras = around(recipe, CONTACT_VIEWS, 64)
    _, alpha = draw(renderer, cameras, 0.0)
    settings = recipe.export
    mesh = mesh_from_splats(
        splats_of(renderer), settings.mesh_resolution, settings.mesh_faces, Silhouettes(alpha, cameras)
    )
    return write_glb(path, mesh)


def _mp4(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    from sds3d.export.video import write_mp4

    images, _ = draw(renderer, around(recipe, recipe.export.turntable_views, recipe.export.size), 1.0)
    return write_mp4(path, to_bytes(images))


def _png(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    images, _ = draw(renderer, around(recipe, CONTACT_VIEWS, recipe.export.size), 1.0)
    return write_strip(path, images)
