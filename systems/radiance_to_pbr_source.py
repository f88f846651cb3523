"""What radiance_to_pbr starts from: pictures in a folder, a rendered set, or an asset whose own pictures are the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from renderers.base import Renderer
from renderers.gaussians import initialise, sh
from renderers.gaussians.materials import discs
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.rasterise import rasterise
from renderers.material_surface import MaterialSurface
from sds3d.cameras import Cameras
from sds3d.config.materials import MaterialsConfig
from sds3d.datasets.frames import normalised
from sds3d.datasets.hull import hull_points
from sds3d.datasets.rendered import RenderedSet, rendered, spread
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError, nearest
from sds3d.export.splats import Splats
from sds3d.meshing.mesh import Mesh
from systems.radiance_to_pbr_mesh import open_surface, scene_mesh
from systems.randomness import generator_for

TOYBOX = "toybox:"
CACHE = Path.home() / ".cache" / "sds3d" / "rendered"
"""Where rendered sets are kept."""
HELD_OUT, RELIT = 6, ("sunset", "lamps")
"""Views and lights of rendered sets that nothing is trained on."""
_CHUNK = 8
SPLATS = (".ply", ".spz", ".splat", ".glb")
"""Endings of files of splats."""


@dataclass(frozen=True)
class Start:
    """Views to train on, views to report on (or None), and the cloud to start from (with harmonics beyond degree 0), or
    the mesh."""

    training: ViewSet
    held_out: ViewSet | None
    geometry: Gaussians | MaterialSurface
    sh_rest: Tensor | None = None


def kind_of(source: str) -> str:
    """Return what `source.path` names: "toybox", "splats", "run" or "pictures". Looks at names and at one file only.

    Raises: AssetError for what does not exist, an unknown toybox scene and folders of no known kind.
    """
    from sds3d.datasets.open import detect

    path = Path(source).expanduser()
    if source.startswith(TOYBOX):
        from sds3d.datasets.scenes import SCENES

        name = source[len(TOYBOX) :]
        if name not in SCENES:
            raise AssetError(f"'{source}': there is no material scene '{name}'. Did you mean {nearest(name, SCENES)}?")
        return "toybox"
    if path.is_file() or path.suffix.lower() in SPLATS:
        if path.suffix.lower() not in SPLATS or not path.is_file():
            state = "ends in no known way" if path.is_file() else "does not exist"
            raise AssetError(
                f"'{source}' {state}. Give a folder of pictures, a run folder, splats ({', '.join(SPLATS)}) or {TOYBOX}NAME.",
                path,
            )
        return "splats"
    if (path / "run.json").is_file():
        return "run"
    detect(path)
    return "pictures"


def open_source(config: MaterialsConfig, cache: Path | None = CACHE) -> Start:
    """Return what the recipe's source holds. Raises: AssetError if it is missing or broken."""
    source, path = config.source, Path(config.source.path).expanduser()
    kind = kind_of(source.path)
    if kind == "splats":
        return _from_splats(config, path)
    if kind == "run":
        return _from_run(config, path)
    if kind == "toybox":
        name = source.path[len(TOYBOX) :]
        views, between = toybox_sets(name, source.size, source.views, cache)
        return Start(views, between, initial(config, views, lambda: scene_mesh(name)))
    else:
        from sds3d.datasets.open import detect, load_views

        layout = detect(path) if source.layout == "auto" else source.layout
        views = load_views(path, source.split, layout, source.shrink)
        views = normalised(views) if layout == "colmap" else views
    training, held_out = views.split(source.hold_out) if source.hold_out else (views, None)
    return Start(training, held_out, initial(config, training))


def toybox_sets(
    scene: str, size: int = 64, views: int = 24, cache: Path | None = CACHE, relit: tuple[str, ...] = RELIT
) -> tuple[ViewSet, ViewSet]:
    """Return views of a rendered scene to train on, and others, from between and also under the lights `relit`."""
    training = rendered(RenderedSet(scene=scene, size=size, views=views), cache)
    between = RenderedSet(scene=scene, size=size, views=HELD_OUT, turn_deg=75.0, relit=relit)
    return training, rendered(between, cache)


def initial(
    config: MaterialsConfig, views: ViewSet, own: Callable[[], Mesh] | None = None
) -> Gaussians | MaterialSurface:
    """Return the cloud at the start, discs on the visual hull or a ball; or the mesh. own: makes that of what is distilled."""
    if config.surface.init != "none":
        return open_surface(config, views, own() if own and config.surface.init == "own" else None)
    cloud, generator = config.cloud, generator_for(config.seed, "start")
    if cloud.init == "ball":
        return initialise.ball(cloud.count, cloud.init_radius, generator, opacity=cloud.init_opacity)
    found = hull_points(views, cloud.count, generator, cloud.hull_resolution, cloud.init_radius)
    return discs(*found, cloud.init_opacity, cloud.thinness)


def _from_splats(config: MaterialsConfig, path: Path) -> Start:
    """Return splats as the start, and pictures of them as the truth: the teacher of section 4.5 of the method page."""
    from sds3d.export.splat_files import read_splats

    return _from_cloud(config, read_splats(path), path.stem)


def _from_cloud(config: MaterialsConfig, splats: Splats, name: str) -> Start:
    views = draw_splats(splats, spread(config.source.views, config.source.size), name)
    rest = None if splats.shN is None else torch.from_numpy(splats.shN.copy())
    training, held_out = views.split(config.source.hold_out) if config.source.hold_out else (views, None)
    if config.surface.init != "none":
        return Start(training, held_out, initial(config, training))
    return Start(training, held_out, initialise.from_splats(splats), rest)


def _from_run(config: MaterialsConfig, folder: Path) -> Start:
    """Return a finished run's asset as the truth: its own splats, or discs on the hull of what its pictures show.

    Raises: AssetError if the run has materials already, or moves.
    """
    from renderers.dynamic import DynamicRenderer
    from renderers.gaussians.renderer import GaussianRenderer
    from sds3d.config import plain_yaml
    from sds3d.run import open_run
    from systems.assets import mesh_of, splats_of
    from systems.text_to_3d import trained

    opened = open_run(folder)
    if plain_yaml.read(opened.recipe_file).get("kind") == config.kind:
        raise AssetError(f"The run '{folder}' has materials already. Give it to 'render --light' instead.", folder)
    renderer, made_by = trained(opened.read_recipe(), opened)
    if isinstance(renderer, DynamicRenderer):
        raise AssetError(f"The run '{folder}' moves, which cannot be distilled. Give a run that stands still.", folder)
    if isinstance(renderer, GaussianRenderer):
        return _from_cloud(config, splats_of(renderer), folder.name)
    views = draw_asset(renderer, spread(config.source.views, config.source.size), folder.name)
    training, held_out = views.split(config.source.hold_out) if config.source.hold_out else (views, None)
    return Start(training, held_out, initial(config, training, lambda: mesh_of(renderer, made_by)))


def draw_asset(renderer: Renderer, cameras: Cameras, name: str) -> ViewSet:
    """Return pictures of any asset, un-premultiplied, from `cameras`."""
    from systems.pictures import draw

    rgb, alpha = draw(renderer, cameras, 0.0)
    names = tuple(f"view {row:03d}" for row in range(len(cameras)))
    return ViewSet(
        name=name, images=(rgb / alpha.clamp_min(1e-3)).clamp(0.0, 1.0), alpha=alpha, cameras=cameras, names=names
    )


@torch.no_grad()
def draw_splats(splats: Splats, cameras: Cameras, name: str) -> ViewSet:
    """Return pictures of splats, with all their harmonics, from `cameras`."""
    tensors = {
        key: torch.from_numpy(getattr(splats, key).copy()) for key in ("means", "quats", "log_scales", "opacity_logits")
    }
    coefficients = torch.from_numpy(splats.sh0.copy())[:, None]
    if splats.shN is not None:
        coefficients = torch.cat([coefficients, torch.from_numpy(splats.shN.copy())], dim=1)
    degree = int(coefficients.shape[1] ** 0.5) - 1
    images, alphas = [], []
    for first in range(0, len(cameras), _CHUNK):
        some = cameras[first : first + _CHUNK]
        colours = sh.evaluate(coefficients, tensors["means"], some.world_to_cam, degree)
        rgb, alpha, _ = rasterise(
            tensors["means"],
            tensors["quats"],
            tensors["log_scales"].exp(),
            tensors["opacity_logits"].sigmoid(),
            colours,
            some.world_to_cam,
            some.intrinsics,
            some.width,
            some.height,
        )
        images.append((rgb / alpha.clamp_min(1e-4)).clamp(0.0, 1.0))
        alphas.append(alpha)
    return ViewSet(
        name=name,
        images=torch.cat(images),
        alpha=torch.cat(alphas).clamp(0.0, 1.0),
        cameras=cameras,
        names=tuple(f"view {row:03d}" for row in range(len(cameras))),
    )
