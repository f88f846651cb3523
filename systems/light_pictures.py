"""Toys of known material in known, changing light, with the condition pictures of each: what the bundled ControlNet learns from.

Everything is drawn by the renderer of `kind: pbr_mesh` itself, so the pictures of training are those of a run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from renderers.conditions import condition_maps
from renderers.gbuffer import MaterialField
from renderers.pbr_mesh import PbrMeshRenderer, exposed, material_texture
from renderers.surface_texture import Places
from sds3d.cameras import Cameras, orbit
from sds3d.config.pbr import PbrMeshConfig
from sds3d.config.surface import TextureConfig
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Mesh
from sds3d.shading.colour import linear_from_srgb
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.lights import open_light
from sds3d.shading.prefilter import Prefiltered
from sds3d.toybox.dataset import FOV_DEG, HEIGHTS, IMAGE_SIZE, build, draw_description, draw_orbit
from sds3d.toybox.light_set import CONDITIONS, LIGHT_RECORD, LightFiles
from sds3d.toybox.palette import COLORS, NOUNS

LIGHTS_PER_VIEW = 2
"""Lights (and materials) each view is drawn in: the conditions of the one are the wrong ones for the other."""
LIGHT_RESOLUTION = 16
MIXED_LIGHTS = 64
"""Lights of training: mixtures of two named ones."""
METAL_SHARE = 0.25
"""Share of pictures that are metal, partly or wholly."""


@dataclass(frozen=True, kw_only=True)
class LightSetConfig:
    """Which toys in which light a set holds.

    Args:
        objects, views, seed, pairs: as `sds3d.toybox.dataset.SetConfig`.
        lights: names of `sds3d.shading.lights`.
        is_mixed: whether lights are `MIXED_LIGHTS` mixtures of two of these, of random brightness, or these themselves.
    """

    objects: int = 288
    views: int = 4
    seed: int = 0
    pairs: str = "train"
    lights: tuple[str, ...] = ("studio", "sunset", "overcast", "noon", "ring", "sky", "constant")
    is_mixed: bool = True

    @property
    def rows(self) -> int:
        """Pictures of the set."""
        return self.objects * self.views * LIGHTS_PER_VIEW


@dataclass
class _Stage:
    """What all toys of a set share: the renderer's configuration and the lights."""

    wanted: LightSetConfig
    lights: list[Prefiltered] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = PbrMeshConfig(
            conditions=CONDITIONS,
            light_resolution=LIGHT_RESOLUTION,
            texture=TextureConfig(kind="grid", resolution=4),
        )
        self.lights = lights_of(self.wanted)


def lights_of(wanted: LightSetConfig) -> list[Prefiltered]:
    """Return the lights of a set, unturned; a white ball in them is as bright as 0.6 to 1 in the mean (0.8 if unmixed)."""
    named = [exposed(open_light(name, LIGHT_RESOLUTION), 0.8) for name in wanted.lights]
    if not wanted.is_mixed:
        return [light.prefiltered() for light in named]
    rng, mixed = np.random.default_rng([wanted.seed, 31]), []
    for _ in range(MIXED_LIGHTS):
        one, other = rng.integers(len(named), size=2)
        share = float(rng.choice([0.0, rng.random()]))
        tint = torch.tensor(1.0 + 0.15 * (2.0 * rng.random(3) - 1.0), dtype=torch.float32)
        texels = ((1.0 - share) * named[one].cubemap() + share * named[other].cubemap()) * tint
        mixed.append(exposed(EnvironmentLight(texels), float(rng.uniform(0.6, 1.0))).prefiltered())
    return mixed


def make_light_set(folder: Path, wanted: LightSetConfig) -> LightFiles:
    """Draw the set into files under `folder` (about 100 kB a picture) and return them; toys already there are kept."""
    files = LightFiles(folder / f"light-{wanted.pairs}-seed{wanted.seed}-{wanted.objects}x{wanted.views}")
    if not files.records.exists():
        files.folder.mkdir(parents=True, exist_ok=True)
        side = IMAGE_SIZE
        shapes: list[tuple[Path, Any, tuple[int, ...]]] = [
            (files.conditions, np.uint8, (wanted.rows, 22, side, side)),
            (files.pictures, np.uint8, (wanted.rows, side, side, 4)),
            (files.records, LIGHT_RECORD, (wanted.rows,)),
        ]
        for path, dtype, shape in shapes:
            open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
    conditions, pictures, records = (np.load(path, mmap_mode="r+") for path in files.paths)
    each = wanted.views * LIGHTS_PER_VIEW
    missing = [k for k in range(wanted.objects) if not records["is_drawn"][(k + 1) * each - 1]]
    stage = _Stage(wanted) if missing else None
    for k in missing:
        assert stage is not None
        rows = slice(k * each, (k + 1) * each)
        conditions[rows], pictures[rows], records[rows] = draw_toy(stage, k)
    return files


@torch.no_grad()
def draw_toy(stage: _Stage, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return conditions [N, 22, S, S], premultiplied RGBA [N, S, S, 4] and records [N] of one toy; N in the order (view, light)."""
    wanted = stage.wanted
    rng = np.random.default_rng([wanted.seed, number])
    what = draw_description(number, wanted.pairs, rng)
    mesh = mesh_from_toy(build(what, rng))
    views = torch.from_numpy(draw_orbit(wanted.views, rng))
    renderer = PbrMeshRenderer(
        torch.from_numpy(mesh.vertices),
        torch.from_numpy(mesh.faces),
        material_texture(stage.config, torch.Generator().manual_seed(0)),
        stage.config,
    )
    count = len(views) * LIGHTS_PER_VIEW
    gloss, metal = _materials(count, rng)
    chosen, angles = rng.integers(len(stage.lights), size=count), rng.uniform(0.0, 2.0 * np.pi, count)
    lights = [stage.lights[n].rotated(float(angle)) for n, angle in zip(chosen, angles, strict=True)]
    seen = _repeated(renderer.gbuffer(_cameras(views), painted(mesh)))
    seen = replace(seen, roughness=torch.ones_like(seen.alpha) * gloss, metallic=torch.ones_like(seen.alpha) * metal)
    views = views.repeat_interleave(LIGHTS_PER_VIEW, dim=0)
    drawn = renderer.shaded(seen, lights).clamp(0.0, 1.0) * seen.alpha
    maps = condition_maps(seen, _cameras(views), lambda white: renderer.shaded(white, lights), CONDITIONS)
    records = np.zeros(count, LIGHT_RECORD)
    records["noun"], records["color"] = NOUNS.index(what.noun), list(COLORS).index(what.color)
    records["height"], records["striped"], records["base"] = HEIGHTS.index(what.height), what.is_striped, what.has_base
    records["azimuth"], records["elevation"], records["distance"] = views.numpy().T
    records["light"], records["angle"], records["is_drawn"] = chosen, angles, True
    records["roughness"], records["metallic"] = gloss.flatten().numpy(), metal.flatten().numpy()
    return _bytes(maps), _bytes(torch.cat([drawn, seen.alpha], dim=-1)), records


def _cameras(views: Tensor) -> Cameras:
    return orbit(views[:, 0], views[:, 1], views[:, 2], FOV_DEG, IMAGE_SIZE, IMAGE_SIZE)


def _repeated(seen: GBuffer) -> GBuffer:
    """Return a G-buffer with every view `LIGHTS_PER_VIEW` times."""
    names = ("alpha", "normal", "position", "base_colour", "roughness", "metallic", "view")
    parts = {name: getattr(seen, name).repeat_interleave(LIGHTS_PER_VIEW, dim=0) for name in names}
    extras = {name: plane.repeat_interleave(LIGHTS_PER_VIEW, dim=0) for name, plane in seen.extras.items()}
    return GBuffer(**parts, extras=extras)


def painted(mesh: Mesh) -> MaterialField:
    """Return the material of a mesh whose base colours are its vertices' own (sRGB), half rough, no metal."""
    colours = linear_from_srgb(torch.from_numpy(mesh.colors)).clamp(0.03, 0.97)
    faces = torch.from_numpy(mesh.faces).long()

    def paint(places: Places) -> dict[str, Tensor]:
        corners = colours.index_select(0, faces.index_select(0, places.face).flatten()).view(-1, 3, 3)
        base = (places.weight[..., None] * corners).sum(dim=1)
        return {"base_colour": base, "roughness": base[:, :1] * 0.0 + 0.5, "metallic": base[:, :1] * 0.0}

    return paint


def _materials(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return roughness and metalness [N, 1, 1, 1]: mostly dielectrics, of any gloss."""
    gloss = rng.uniform(0.15, 0.95, count)
    metal = np.where(rng.random(count) < METAL_SHARE, rng.uniform(0.2, 0.9, count), 0.0)
    return tuple(torch.tensor(part, dtype=torch.float32).view(-1, 1, 1, 1) for part in (gloss, metal))  # type: ignore[return-value]


def _bytes(values: Tensor) -> np.ndarray:
    return (values * 255.0 + 0.5).clamp(0.0, 255.0).byte().numpy()
