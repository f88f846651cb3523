"""Light on a surface: what colours become in a picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config.surface import ShadingConfig

AMBIENT, HEADLIGHT, SKY = 0.38, 0.47, 0.15
"""Shares of the light in the bundled prior's training pictures (`sds3d.toybox.raster`; a test compares them)."""
LAMP_DISTANCE = (0.8, 1.5)
"""Distances of a random lamp from the origin, world units. Source: DreamFusion, appendix A.2."""


@dataclass(frozen=True)
class Points:
    """P visible points of a surface.

    Args:
        albedo: [P, 3] sRGB in [0, 1]. normal: [P, 3] unit, world frame, towards the outside.
        position: [P, 3] world frame. view: [P] int64, the camera that sees it.
    """

    albedo: Tensor
    normal: Tensor
    position: Tensor
    view: Tensor


@dataclass(frozen=True)
class Lamp:
    """The random light of one step; kind: "plain" (no light), "white" (light on white) or "lit".

    Args:
        position: [B, 3] world frame, one lamp a camera.
    """

    kind: str
    position: Tensor


def lambert(points: Points, cameras: Cameras) -> Tensor:
    """Return [P, 3]: albedo in the light of the camera, an even light and a weak sky, both sides alike."""
    view = cameras.cam_to_world[:, :3, 3].index_select(0, points.view) - points.position
    cosine = (points.normal * torch.nn.functional.normalize(view, dim=1)).sum(dim=1, keepdim=True)
    upward = points.normal[:, 2:] * torch.where(cosine < 0, -1.0, 1.0)
    return points.albedo * (AMBIENT + HEADLIGHT * cosine.abs() + SKY * (0.5 + 0.5 * upward))


def draw_lamp(config: ShadingConfig, cameras: Cameras, generator: torch.Generator) -> Lamp:
    """Return the lamp of one step: near the direction of each camera, at a random distance; all draws on the CPU.

    Source: DreamFusion, appendix A.2: direction normalize(camera position + noise of its own unit), lit, plain and
    white steps mixed. Deviation: the camera's position is made a unit vector first, so distance does not matter.
    """
    share = float(torch.rand((), generator=generator))
    noise = torch.randn(len(cameras), 3, generator=generator)
    reach = torch.rand(len(cameras), 1, generator=generator) * (LAMP_DISTANCE[1] - LAMP_DISTANCE[0]) + LAMP_DISTANCE[0]
    lit = config.albedo_fraction + (1.0 - config.albedo_fraction) * (1.0 - config.textureless_fraction)
    kind = "plain" if share < config.albedo_fraction else "lit" if share < lit else "white"
    towards = torch.nn.functional.normalize(cameras.cam_to_world[:, :3, 3], dim=1)
    direction = torch.nn.functional.normalize(towards + noise.to(towards), dim=1)
    return Lamp(kind, direction * reach.to(towards))


def by_lamp(points: Points, lamp: Lamp, config: ShadingConfig) -> Tensor:
    """Return [P, 3]: albedo (or white) in even light and the lamp's."""
    if lamp.kind == "plain":
        return points.albedo
    towards = lamp.position.index_select(0, points.view) - points.position
    cosine = (points.normal * torch.nn.functional.normalize(towards, dim=1)).sum(dim=1, keepdim=True)
    light = config.ambient + config.diffuse * cosine.clamp_min(0.0)
    # White keeps the colours in the graph: a mesh that does not move would else have no gradient at all.
    return (points.albedo if lamp.kind == "lit" else 1.0 + 0.0 * points.albedo) * light


def normal_picture(points: Points, cameras: Cameras, frame: str) -> Tensor:
    """Return [P, 3] in [0, 1]: half the normal plus a half. Source: Fantasia3D, section 3.1.

    frame "camera": x to the right, y up, z to the viewer, as normal maps are usually drawn.
    """
    normal = points.normal
    if frame == "camera":
        axes = cameras.cam_to_world[:, :3, :3].index_select(0, points.view)
        normal = torch.einsum("pij,pi->pj", axes, normal) * normal.new_tensor([1.0, -1.0, -1.0])
    return 0.5 + 0.5 * normal
