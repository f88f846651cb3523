"""Rays of cameras, and the part of each ray inside a box or a sphere about the origin."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.cameras import Cameras


@dataclass(frozen=True)
class Rays:
    """R rays, in the order of pixels: image after image, row after row.

    Args:
        origins, directions: [R, 3] world frame; directions have length 1.
        near, far: [R] distances between which there is something to sample; far = near where a ray misses.
        z_scale: [R] camera z per unit of distance.
    """

    origins: Tensor
    directions: Tensor
    near: Tensor
    far: Tensor
    z_scale: Tensor

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: slice) -> Rays:
        """Return some of the rays."""
        return Rays(self.origins[index], self.directions[index], self.near[index], self.far[index], self.z_scale[index])

    def at(self, ray: Tensor, distance: Tensor) -> Tensor:
        """Return points [N, 3] at `distance` [N] on the rays of number `ray` [N]."""
        return torch.addcmul(self.origins.index_select(0, ray), self.directions.index_select(0, ray), distance[:, None])


def camera_rays(cameras: Cameras, radius: float) -> Rays:
    """Return the rays through all pixel centres of B cameras, limited to the box [-radius, radius]^3.

    Frame and pixel centres as in `sds3d.conventions`. Differentiable in the cameras.
    """
    device, dtype = cameras.cam_to_world.device, cameras.cam_to_world.dtype
    rows = torch.arange(cameras.height, device=device, dtype=dtype) + 0.5
    columns = torch.arange(cameras.width, device=device, dtype=dtype) + 0.5
    focal = cameras.intrinsics[:, [0, 1], [0, 1]]  # [B, 2]
    centre = cameras.intrinsics[:, :2, 2]
    x = (columns - centre[:, :1]) / focal[:, :1]  # [B, W]
    y = (rows - centre[:, 1:]) / focal[:, 1:]  # [B, H]
    size = (len(cameras), cameras.height, cameras.width)
    x, y = x[:, None, :].expand(size), y[:, :, None].expand(size)
    local = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    length = local.norm(dim=-1, keepdim=True)
    rotation = cameras.cam_to_world[:, :3, :3]
    directions = torch.einsum("bij,bhwj->bhwi", rotation, local / length).reshape(-1, 3)
    origins = cameras.cam_to_world[:, None, None, :3, 3].expand(*size, 3).reshape(-1, 3)
    near, far = box_interval(origins, directions, radius)
    return Rays(origins, directions, near, far, (1.0 / length).reshape(-1))


def box_interval(origins: Tensor, directions: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Return distances (near, far) [R] at which rays enter and leave the box [-half, half]^3; near >= 0.

    Where a ray misses, or the box lies behind it, far equals near. Directions may have zeros.
    """
    tiny = torch.full_like(directions, 1e-9)
    safe = torch.where(directions.abs() < 1e-9, torch.where(directions < 0, -tiny, tiny), directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    near = torch.minimum(first, second).amax(dim=-1).clamp(min=0.0)
    far = torch.maximum(first, second).amin(dim=-1)
    return near, torch.maximum(near, far)


def sphere_interval(origins: Tensor, directions: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Return distances (near, far) [R] at which rays enter and leave the sphere; conventions of `box_interval`."""
    middle = -(origins * directions).sum(dim=-1)
    closest = (origins + middle[:, None] * directions).square().sum(dim=-1)
    half = (radius**2 - closest).clamp(min=0.0).sqrt()
    near = (middle - half).clamp(min=0.0)
    return near, torch.maximum(near, middle + half)
