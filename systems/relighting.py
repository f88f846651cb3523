"""Runs and mesh files under another light: `render RUN --light studio`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sds3d.cameras import turntable
from sds3d.config import plain_yaml
from sds3d.errors import AssetError, ConfigError, nearest

if TYPE_CHECKING:
    import torch

    from renderers.gbuffer_assets import Guess, Shader, View
    from renderers.pbr_mesh import PbrMeshRenderer
    from sds3d.config import Recipe

TURNS = ("camera", "light")
"""What goes around: the camera under a fixed light, or the light about a fixed camera."""
MATERIALS_KIND = "radiance_to_pbr"
LIGHT_RESOLUTION = 64
SMALLEST, LARGEST, FITTED = 0.2, 1.2, 0.9
"""Radii, world units, of meshes from files that are shown as they are; others are brought to the third."""


@dataclass(frozen=True)
class Lit:
    """An asset that can be lit: what cameras see, how it is shaded, and from where it is looked at.

    has_materials: whether its materials were learnt; otherwise they are guessed.
    """

    view: View
    shader: Shader
    transform: str
    distance: float
    fov_deg: float
    device: torch.device
    has_materials: bool


def relight(
    folder: Path,
    light: str,
    *,
    views: int = 60,
    size: int = 256,
    elevation_deg: float = 20.0,
    turn: str = "camera",
    roughness: float = 0.6,
    metallic: float = 0.0,
    background: float | None = 1.0,
    convention: str = "blender",
) -> tuple[list[Path], str]:
    """Draw the last checkpoint of the run `folder` in another light; return a film and its first picture, and a line.

    Args:
        folder: of the run; or a mesh file, beside which the pictures are then written.
        light: a name of `sds3d.shading.lights.LIGHTS`, or a .hdr or .exr file, in `convention`.
        views, size: number of pictures and their side in pixels. turn: one of `TURNS`.
        roughness, metallic: for assets whose materials were not learnt.
        background: a grey in [0, 1], or None for the light itself.

    A turning light also goes into the report page, as a slider.
    The line says what is worth knowing, e.g. that materials were guessed; "" if nothing is.
    Raises: ConfigError, AssetError for wrong arguments, lights and folders.
    """
    from renderers.gbuffer_assets import Guess, relit
    from sds3d.export.images import to_bytes, write_png
    from sds3d.export.video import write_turntable
    from sds3d.shading.lights import open_light

    if turn not in TURNS:
        raise ConfigError(f"turn is '{turn}', which is unknown. Use {nearest(turn, TURNS)}.", "turn")
    guess = Guess(roughness=roughness, metallic=metallic)
    filtered = open_light(light, LIGHT_RESOLUTION, convention=convention)
    asset = _open(folder, guess)
    lit = filtered.to(asset.device).prefiltered()
    cameras = turntable(views, size, elevation_deg, asset.distance, asset.fov_deg).to(asset.device)
    lights = [lit] * views
    if turn == "light":
        cameras = turntable(1, size, elevation_deg, asset.distance, asset.fov_deg).to(asset.device)
        cameras = cameras[_zeros(views, asset.device)]
        lights = [lit.rotated(2.0 * math.pi * number / views) for number in range(views)]
    drawn = relit(asset.view, lights.__getitem__, cameras, background, asset.shader, asset.transform)
    pictures = np.concatenate([to_bytes(picture[None].cpu()) for picture in drawn])
    name = f"{Path(light).stem}-{turn}-{views}x{size}px"
    stem = folder.parent / f"{folder.stem}-relit-{name}" if folder.is_file() else folder / "export" / f"relit-{name}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    files = [write_png(f"{stem}.png", pictures[0])]
    files = [write_turntable(f"{stem}.mp4", pictures), *files] if views > 1 else files
    if turn == "light" and views > 1 and folder.is_dir():
        files += _show_light_turn(folder, pictures)
    return files, "" if asset.has_materials else _guessed(guess, folder)


def write_light_turn_of(renderer: PbrMeshRenderer, recipe: Recipe, folder: Path, steps: int = 24) -> Path:
    """Write an asset with a material under its first light, turned in `steps` steps, for the slider of the report page."""
    import torch

    from sds3d.export.images import to_bytes
    from sds3d.export.light_turn import FILE_NAME, write_light_turn
    from sds3d.shading.deferred import composite

    camera = turntable(1, recipe.export.size, 20.0, sum(recipe.cameras.distance) / 2, recipe.cameras.fov_deg)
    with torch.no_grad():
        seen, light = renderer.gbuffer(camera.to(renderer.vertices.device)), renderer.lights()[0]
        turned = (light.rotated(2.0 * math.pi * number / steps) for number in range(steps))
        white = torch.ones(1, 3, device=seen.alpha.device)
        pictures = torch.cat([composite(renderer.picture(seen, light), seen.alpha, white) for light in turned])
    return write_light_turn(folder / FILE_NAME, to_bytes(pictures.cpu()))


def _show_light_turn(folder: Path, pictures: np.ndarray) -> list[Path]:
    """Write the strip of a turning light, and the report page anew if the run has one."""
    from sds3d.export.light_turn import FILE_NAME, write_light_turn
    from sds3d.report_page import FILE_NAME as REPORT
    from sds3d.report_page import write_report_page
    from sds3d.run import RunFolder

    files = [write_light_turn(folder / "export" / FILE_NAME, pictures)]
    return [*files, write_report_page(RunFolder(folder))] if (folder / REPORT).is_file() else files


def _guessed(guess: Guess, folder: Path) -> str:
    guessed = f"taken as base colours (roughness {guess.roughness:g}, metallic {guess.metallic:g})"
    if folder.is_file():
        return f"This file has no materials: its colours are {guessed}."
    return (
        f"This run has no materials: its colours are {guessed}, so light that was learnt with them stays. "
        f"{MATERIALS_KIND} takes it out."
    )


def _zeros(count: int, device: torch.device) -> torch.Tensor:
    import torch

    return torch.zeros(count, dtype=torch.int64, device=device)


def _open(folder: Path, guess: Guess) -> Lit:
    """Return the asset of either kind of run, or of a mesh file. Raises: AssetError if there is none."""
    if folder.is_file():
        return _open_file(folder, guess)
    recipe = folder / "recipe.yaml"
    if recipe.is_file() and plain_yaml.read(recipe).get("kind") == MATERIALS_KIND:
        return _open_materials(folder)
    from renderers.dynamic import DynamicRenderer
    from renderers.gbuffer_assets import shown_by, view_of
    from renderers.pbr_mesh import PbrMeshRenderer
    from sds3d.run import open_run
    from sds3d.shading.deferred import ShadeSettings
    from systems.text_to_3d import trained

    renderer, stage = trained(open_run(folder).read_recipe(), open_run(folder))
    materials = renderer if isinstance(renderer, PbrMeshRenderer) else None
    if isinstance(renderer, DynamicRenderer):
        raise AssetError(
            f"'{folder}' moves, and moving assets cannot be lit yet. Give a run that stands still.", folder
        )
    cameras: Any = stage.cameras
    return Lit(
        view=view_of(renderer, guess) if materials is None else materials.gbuffer,
        shader=shown_by(ShadeSettings(mode="layered")) if materials is None else materials.picture,
        transform="srgb" if materials is None else materials.config.view_transform,
        distance=sum(cameras.distance) / 2,
        fov_deg=cameras.fov_deg,
        device=next(renderer.parameters()).device,
        has_materials=materials is not None,
    )


def _open_file(file: Path, guess: Guess) -> Lit:
    """Return the mesh of a file, such as our own export; one that does not fit before the camera is centred and scaled."""
    from renderers.material_mesh import MaterialMesh, fitted
    from sds3d.export.read_mesh import read_mesh_and_normals

    mesh, normals = read_mesh_and_normals(file)  # not repaired: it is shown as it is
    asset = MaterialMesh(mesh, guess, normals)
    if not SMALLEST <= asset.radius <= LARGEST:
        asset = MaterialMesh(fitted(mesh, FITTED), guess, normals)
    return Lit(
        view=asset.gbuffer,
        shader=asset.picture,
        transform="srgb",
        distance=2.5,
        fov_deg=45.0,
        device=asset.vertices.device,
        has_materials=asset.has_material,
    )


def _open_materials(folder: Path) -> Lit:
    """Return the asset of a run of radiance_to_pbr, in its own way of shading."""
    from systems.radiance_to_pbr_run import load_run

    system = load_run(folder)
    return Lit(
        view=system.cloud.gbuffer,
        shader=system.physical,
        transform=system.config.shading.view_transform,
        distance=2.5,
        fov_deg=45.0,
        device=system.device,
        has_materials=True,
    )
