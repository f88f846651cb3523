"""From trained Gaussians to the files of `export/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.renderer import GaussianRenderer
from sds3d.cameras import Cameras, turntable
from sds3d.config import Recipe
from sds3d.export.images import write_png
from sds3d.export.sheet import write_contact_sheet
from sds3d.export.splats import Splats, write_ply
from sds3d.run import RunFolder
from systems.pictures import draw, film

FILES = {"ply": "splats.ply", "glb": "mesh.glb", "mp4": "turntable.mp4", "png": "contact.png"}
CONTACT_VIEWS, CONTACT_COLUMNS = 8, 4
OUTLINE_VIEWS, OUTLINE_SIZE = 8, 64
"""Views from which the mesher learns how much of the soft rim of the splats belongs to the object."""
WHITE = 1.0


def splats_of(renderer: GaussianRenderer) -> Splats:
    """Return the renderer's Gaussians as plain arrays."""
    return Splats(**{name: getattr(renderer, name).detach().cpu().numpy() for name in GROUPS})


def around(recipe: Recipe, views: int, size: int, elevation_deg: float = 20.0) -> Cameras:
    """Return cameras around the object at the recipe's mean distance, the first one at its front."""
    return turntable(views, size, elevation_deg, sum(recipe.cameras.distance) / 2, recipe.cameras.fov_deg)


def write_assets(renderer: GaussianRenderer, recipe: Recipe, run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write the asset in each of `formats` (keys of `FILES`) and return the files."""
    writers = {"ply": _ply, "glb": _glb, "mp4": _mp4, "png": _png}
    return [writers[name](renderer, recipe, run.export / FILES[name]) for name in formats]


def write_views(
    renderer: GaussianRenderer, recipe: Recipe, run: RunFolder, views: int, size: int, elevation_deg: float
) -> list[Path]:
    """Write `views` pictures around the asset as a film, and the first of them as PNG; return both files."""
    from sds3d.export.video import write_turntable

    pictures = film(renderer, around(recipe, views, size, elevation_deg), WHITE)
    stem = run.export / f"render-{views}x{size}px-elevation{elevation_deg:g}"
    files = [write_png(f"{stem}.png", pictures[0])]
    return [write_turntable(f"{stem}.mp4", pictures), *files] if views > 1 else files


def _ply(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    return write_ply(path, splats_of(renderer))


def _glb(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    from sds3d.export.mesh import write_mesh
    from sds3d.meshing.from_splats import Silhouettes, mesh_from_splats

    cameras = around(recipe, OUTLINE_VIEWS, OUTLINE_SIZE)
    _, alpha = draw(renderer, cameras, WHITE)
    resolution, faces = recipe.export.mesh_resolution, recipe.export.mesh_faces
    return write_mesh(path, mesh_from_splats(splats_of(renderer), resolution, faces, Silhouettes(alpha, cameras)))


def _mp4(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    from sds3d.export.video import write_turntable

    return write_turntable(
        path, film(renderer, around(recipe, recipe.export.turntable_views, recipe.export.size), WHITE)
    )


def _png(renderer: GaussianRenderer, recipe: Recipe, path: Path) -> Path:
    cameras = around(recipe, CONTACT_VIEWS, recipe.export.size)
    labels = [f"{angle:.0f} deg" for angle in cameras.azimuth_deg.tolist()]
    return write_contact_sheet(path, film(renderer, cameras, WHITE), CONTACT_COLUMNS, labels)
