"""Pictures that tell a ControlNet what it is to paint on, and in which light: depth, normals, light on white materials."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.shading.gbuffer import GBuffer

NEAREST, FARTHEST = 1.0, 0.3
"""Depth pictures run from the one to the other within the mask."""
WHITE_MATERIALS = ((0.0, 0.0), (0.0, 0.5), (0.0, 1.0), (1.0, 0.0), (1.0, 0.5), (1.0, 1.0))
"""(metalness, roughness) of the six white balls of the light condition, in the order of its channels."""

ShadeView = Callable[[GBuffer], Tensor]
"""From a G-buffer to its display-referred picture [B, H, W, 3], each view in its own light, not composited."""


def condition_maps(seen: GBuffer, cameras: Cameras, shade: ShadeView, names: Sequence[str]) -> Tensor:
    """Return the pictures `names` ("depth", "normal", "light") of B views as [B, K, H, W] in [0, 1], without graph.

    shade: draws a G-buffer in the light of the step. "light" is six pictures of the mesh in white: `WHITE_MATERIALS`.

    Source: zzzyuqing/DreamMat, threestudio_dreammat (renderer and Blender scripts): 22 channels, depth 1, normal 3,
        light 18. Background 0.
    Deviations: its light pictures are path traced by Blender and pass its Filmic curve; these are split sums through the
        recipe's own view transform. Outlines are soft.
    """
    with torch.no_grad():
        draw = {"depth": lambda: depth_map(seen, cameras), "normal": lambda: normal_map(seen, cameras)}
        draw["light"] = lambda: light_maps(seen, shade)
        return torch.cat([draw[name]() for name in names], dim=-1).permute(0, 3, 1, 2).contiguous()


def depth_map(seen: GBuffer, cameras: Cameras) -> Tensor:
    """Return [B, H, W, 1]: inverse camera z, stretched within the mask of each view to [`FARTHEST`, `NEAREST`]; else 0."""
    ahead = cameras.cam_to_world[:, None, None, :3, 2]
    depth = ((seen.position - cameras.cam_to_world[:, None, None, :3, 3]) * ahead).sum(dim=-1, keepdim=True)
    mask = seen.alpha > 0.5
    inverse = 1.0 / depth.clamp_min(1e-6)
    low = torch.where(mask, inverse, torch.full_like(inverse, torch.inf)).amin(dim=(1, 2, 3), keepdim=True)
    high = torch.where(mask, inverse, torch.zeros_like(inverse)).amax(dim=(1, 2, 3), keepdim=True)
    share = ((inverse - low) / (high - low).clamp_min(1e-6)).clamp(0.0, 1.0)
    return torch.where(mask, FARTHEST + (NEAREST - FARTHEST) * share, torch.zeros_like(share))


def normal_map(seen: GBuffer, cameras: Cameras) -> Tensor:
    """Return [B, H, W, 3]: normals in the axes of the camera (x right, y up, z to the viewer) as (0.5 - 0.5 x, 0.5 + 0.5 y,
    0.5 + 0.5 z), black where nothing is. The flip of x is that of the published network."""
    local = torch.einsum(
        "bji,bhwj->bhwi", cameras.cam_to_world[:, :3, :3], seen.normal
    )  # OpenCV: x right, y down, z away
    encoded = 0.5 - 0.5 * local
    return encoded * seen.alpha


def light_maps(seen: GBuffer, shade: ShadeView) -> Tensor:
    """Return [B, H, W, 18]: the mesh in white, in each of `WHITE_MATERIALS`, lit as the picture is; black outside."""
    pictures = []
    one = torch.ones_like(seen.roughness)
    for metallic, roughness in WHITE_MATERIALS:
        white = GBuffer(
            alpha=seen.alpha,
            normal=seen.normal,
            position=seen.position,
            base_colour=torch.ones_like(seen.base_colour),
            roughness=roughness * one,
            metallic=metallic * one,
            view=seen.view,
            extras=seen.extras,
        )
        pictures.append(shade(white).clamp(0.0, 1.0) * seen.alpha)
    return torch.cat(pictures, dim=-1)
