"""Render material scenes: ray-traced shadows and one reflection between surfaces, Monte-Carlo everywhere else.

Every point takes light from all around (`sds3d.shading.montecarlo`). Where a ray of light meets the scene itself, that
surface sends what the split sum says it would under the bare light map: one bounce, no noise of its own. So shadows,
reflections of neighbours and light from coloured walls are there, light that bounced twice is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.datasets import rays
from sds3d.datasets.scenes import Scene
from sds3d.datasets.view_set import ViewSet
from sds3d.shading.brdf import Material
from sds3d.shading.colour import to_display
from sds3d.shading.deferred import ShadeSettings, shade_points
from sds3d.shading.montecarlo import integrate
from sds3d.shading.prefilter import Prefiltered

OFFSET = 1e-3
"""Rays of light start so far above the surface, world units, along its true normal."""
_CHUNK = 4096
"""Points shaded at once."""


@dataclass(frozen=True)
class Surfels:
    """P points of a scene as a camera sees them.

    Args:
        pixel: [P] int64, row of the flattened picture. position, normal, flat_normal, view: [P, 3] world; `normal` is the
            smooth one, both face the camera. material: [P].
    """

    pixel: Tensor
    position: Tensor
    normal: Tensor
    flat_normal: Tensor
    view: Tensor
    material: Material


def render(
    scene: Scene,
    cameras: Cameras,
    lights: Mapping[str, Prefiltered],
    light: str,
    samples: int = 96,
    supersample: int = 2,
    seed: int = 0,
    mode: str = "coupled",
    view_transform: str = "srgb",
    is_shadowed: bool = True,
) -> ViewSet:
    """Return pictures of a scene under each of `lights`, with everything that is known about its surface.

    Args:
        lights: name -> light; `light` names that of `ViewSet.images`, the others become `relit`.
        samples: directions of light a point. supersample: points along each side of a pixel.
        seed: of the sampling patterns; equal seeds give equal pictures, and all lights share the same directions.
        mode: of the BRDF, one of `sds3d.shading.brdf.MODES`.
        is_shadowed: False leaves out shadows and reflections, so that the light map explains everything.

    Limits: coverage is in steps of 1 / supersample^2; colours are averaged in display space, as pictures are composited.
    """
    tree = rays.build(scene.corners)
    planes: dict[str, list[Tensor]] = {}
    for row in range(len(cameras)):
        camera = cameras[row : row + 1]
        surfels = visible_surfels(scene, tree, camera, supersample)
        shown = _shade(scene, tree, surfels, lights, samples, seed * 1_000_003 + row, mode, is_shadowed)
        values = {name: to_display(rgb, view_transform) for name, rgb in shown.items()}
        material = surfels.material
        known = {"normals": surfels.normal, "albedo": material.base_colour}
        known |= {"roughness": material.roughness, "metallic": material.metallic}
        for name, value in {**{f"light:{k}": v for k, v in values.items()}, **known}.items():
            mean, alpha = _splat(surfels.pixel, value, camera, supersample)
            planes.setdefault(name, []).append(mean)
        planes.setdefault("alpha", []).append(alpha)
    stacked: dict[str, Any] = {name: torch.stack(parts) for name, parts in planes.items()}
    images = {name[6:]: stacked.pop(name) for name in list(stacked) if name.startswith("light:")}
    stacked["normals"] = torch.nn.functional.normalize(stacked["normals"], dim=-1)
    return ViewSet(
        name=scene.name,
        images=images.pop(light),
        cameras=cameras,
        names=tuple(f"view {row:03d}" for row in range(len(cameras))),
        relit=images,
        light=light,
        view_transform=view_transform,
        **stacked,
    )


def visible_surfels(scene: Scene, tree: rays.Tree, camera: Cameras, supersample: int) -> Surfels:
    """Return what one camera sees at supersample^2 points of every pixel."""
    height, width = camera.height * supersample, camera.width * supersample
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    point = torch.stack([column + 0.5, row + 0.5], dim=-1).double() / supersample
    ahead = torch.cat([point, torch.ones(height, width, 1, dtype=torch.float64)], dim=-1).view(-1, 3)
    matrix = camera.cam_to_world[0].double()
    ways = ahead @ torch.linalg.inv(camera.intrinsics[0].double()).T @ matrix[:3, :3].T
    ways = torch.nn.functional.normalize(ways, dim=-1)
    origins = matrix[:3, 3].expand_as(ways)
    face, distance, weights = rays.trace(tree, origins.numpy(), ways.numpy())
    is_hit = torch.from_numpy(face >= 0)
    pixel = ((row // supersample) * camera.width + column // supersample).flatten()[is_hit]
    hit = face[face >= 0]
    view = -ways[is_hit].float()
    position = (origins[is_hit] + torch.from_numpy(distance[face >= 0])[:, None] * ways[is_hit]).float()
    normal, flat = normals_at(scene, hit, weights[face >= 0], view)
    return Surfels(pixel, position, normal, flat, view, material_at(scene, hit))


def normals_at(scene: Scene, face: Any, weights: Any, view: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smooth and the flat normals [P, 3] at points of the faces, turned towards `view` [P, 3]."""
    full = np.stack([1.0 - weights.sum(axis=1), weights[:, 0], weights[:, 1]], axis=1)
    smooth = torch.from_numpy(np.einsum("pk,pkc->pc", full, scene.normals[face])).float()
    corners = scene.corners[face]
    flat = torch.from_numpy(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).float()
    flat = torch.nn.functional.normalize(flat, dim=-1)
    flat = torch.where((flat * view).sum(-1, keepdim=True) < 0, -flat, flat)
    smooth = torch.nn.functional.normalize(smooth, dim=-1)
    return torch.where((smooth * flat).sum(-1, keepdim=True) < 0, -smooth, smooth), flat


def material_at(scene: Scene, face: Any) -> Material:
    """Return the materials of faces [P]."""
    planes = scene.base_colour[face], scene.roughness[face, None], scene.metallic[face, None]
    return Material(*(torch.from_numpy(np.ascontiguousarray(plane)) for plane in planes))


def _shade(
    scene: Scene,
    tree: rays.Tree,
    surfels: Surfels,
    lights: Mapping[str, Prefiltered],
    samples: int,
    seed: int,
    mode: str,
    is_shadowed: bool,
) -> dict[str, Tensor]:
    """Return the linear light [P, 3] that the surfels send to the camera under each light."""
    shown: dict[str, list[Tensor]] = {name: [torch.zeros(0, 3)] for name in lights}
    for number, start in enumerate(range(0, len(surfels.pixel), _CHUNK)):
        some = slice(start, start + _CHUNK)
        material = Material(
            *(v[some] for v in (surfels.material.base_colour, surfels.material.roughness, surfels.material.metallic))
        )
        arriving = _Arriving(
            scene, tree, surfels.position[some] + OFFSET * surfels.flat_normal[some], mode, is_shadowed
        )
        for name, light in lights.items():
            generator = torch.Generator().manual_seed(seed * 9973 + number)
            arriving.light = light
            points = surfels.normal[some], surfels.view[some]
            shown[name].append(integrate(material, *points, arriving, samples, mode, generator).rgb)
    return {name: torch.cat(parts) for name, parts in shown.items()}


class _Arriving:
    """Light that arrives at points from any direction: from the map, or from the scene where it stands in the way.

    All lights are asked for the same directions, so the rays are traced once.
    """

    def __init__(self, scene: Scene, tree: rays.Tree, origins: Tensor, mode: str, is_shadowed: bool) -> None:
        self.scene, self.tree, self.origins, self.is_shadowed = scene, tree, origins, is_shadowed
        self.settings = ShadeSettings(mode=mode)
        self.light: Prefiltered
        self._hits: tuple[Tensor, Material, Tensor, Tensor] | None = None

    def __call__(self, directions: Tensor) -> Tensor:
        """Return linear light [P, S, 3] from directions [P, S, 3]."""
        light = self.light.radiance(directions)
        if not self.is_shadowed:
            return light
        rows, material, normal, view = self._hits or self._trace(directions)
        if len(rows):
            light = light.reshape(-1, 3).index_copy(
                0, rows, shade_points(material, normal, view, self.light, self.settings).rgb
            )
        return light.view_as(directions)

    def _trace(self, directions: Tensor) -> tuple[Tensor, Material, Tensor, Tensor]:
        ways = directions.reshape(-1, 3)
        origins = self.origins[:, None].expand_as(directions).reshape(-1, 3)
        face, _, weights = rays.trace(self.tree, origins.numpy(), ways.numpy())
        rows = torch.from_numpy(np.flatnonzero(face >= 0))
        view = -ways[rows]
        normal, _ = normals_at(self.scene, face[rows.numpy()], weights[rows.numpy()], view)
        self._hits = rows, material_at(self.scene, face[rows.numpy()]), normal, view
        return self._hits


def _splat(pixel: Tensor, values: Tensor, camera: Cameras, supersample: int) -> tuple[Tensor, Tensor]:
    """Return the mean of values [P, C] over the points of each pixel, [H, W, C], and the share that is covered."""
    size = camera.height * camera.width
    count = torch.bincount(pixel, minlength=size).float()[:, None]
    total = torch.zeros(size, values.shape[1]).index_add(0, pixel, values.float())
    shape = (camera.height, camera.width, -1)
    return (total / count.clamp_min(1.0)).view(shape), (count / supersample**2).view(shape)
