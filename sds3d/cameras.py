"""Cameras: from where do we look? Orbits around the origin in the frame of `sds3d.conventions`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from sds3d.errors import ShapeError


@dataclass(frozen=True)
class Cameras:
    """A batch of B pinhole cameras.

    Args:
        cam_to_world: [B, 4, 4] float32, OpenCV axes.
        intrinsics: [B, 3, 3] float32, pixels.
        width, height: image size in pixels, shared by the batch.
        azimuth_deg, elevation_deg, distance: [B] float32, the orbit coordinates the matrices were made from.
    """

    cam_to_world: Tensor
    intrinsics: Tensor
    width: int
    height: int
    azimuth_deg: Tensor
    elevation_deg: Tensor
    distance: Tensor

    def __len__(self) -> int:
        return self.cam_to_world.shape[0]

    @property
    def world_to_cam(self) -> Tensor:
        """[B, 4, 4] inverse of `cam_to_world`, by transposition (no linear solve)."""
        rotation = self.cam_to_world[:, :3, :3].transpose(1, 2)
        translation = -(rotation @ self.cam_to_world[:, :3, 3:])
        bottom = torch.zeros_like(self.cam_to_world[:, 3:])
        bottom[..., 3] = 1.0
        return torch.cat([torch.cat([rotation, translation], dim=2), bottom], dim=1)

    def to(self, device: torch.device | str) -> Cameras:
        """Return the same cameras on `device`."""
        return self._each(lambda tensor: tensor.to(device))

    def resized(self, size: int) -> Cameras:
        """Return the same views as square pictures of `size` pixels. Limits: the cameras must be square too."""
        scale = torch.tensor([size / self.width, size / self.height, 1.0], device=self.intrinsics.device)
        return replace(self, width=size, height=size, intrinsics=self.intrinsics * scale[:, None])

    def __getitem__(self, index: slice | Tensor) -> Cameras:
        """Return a sub-batch; `index` is a slice or an index tensor (not an integer)."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Cameras:
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in tensors.items() if isinstance(v, Tensor)}
        return replace(self, **changed)


def look_at_origin(position: Tensor) -> Tensor:
    """Return [B, 4, 4] camera-to-world matrices (OpenCV axes, world +Z up) at `position` [B, 3] looking at the origin.

    Limits: straight above or below the origin "up" is undefined; the right axis then falls back to world +Y.
    """
    forward = -torch.nn.functional.normalize(position, dim=1)
    up = torch.tensor([0.0, 0.0, 1.0], device=position.device, dtype=position.dtype).expand_as(forward)
    right = torch.linalg.cross(forward, up, dim=1)
    fallback = torch.tensor([0.0, 1.0, 0.0], device=position.device, dtype=position.dtype).expand_as(forward)
    right = torch.where(right.norm(dim=1, keepdim=True) < 1e-6, fallback, right)
    right = torch.nn.functional.normalize(right, dim=1)
    down = torch.linalg.cross(forward, right, dim=1)
    matrix = torch.zeros(position.shape[0], 4, 4, device=position.device, dtype=position.dtype)
    matrix[:, :3, :3] = torch.stack([right, down, forward], dim=2)
    matrix[:, :3, 3] = position
    matrix[:, 3, 3] = 1.0
    return matrix


def orbit(
    azimuth_deg: Tensor, elevation_deg: Tensor, distance: Tensor, fov_deg: float, width: int, height: int
) -> Cameras:
    """Return cameras at orbit coordinates ([B] each; degrees, world units) that look at the origin.

    fov_deg is the vertical field of view in (0, 180); the principal point is the image centre.
    """
    azimuth, elevation = torch.deg2rad(azimuth_deg), torch.deg2rad(elevation_deg)
    horizontal = torch.cos(elevation)
    unit = torch.stack([horizontal * torch.cos(azimuth), horizontal * torch.sin(azimuth), torch.sin(elevation)], dim=1)
    focal = 0.5 * height / math.tan(0.5 * math.radians(fov_deg))
    row = [[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]]
    intrinsics = torch.tensor(row, device=unit.device, dtype=unit.dtype).expand(len(unit), 3, 3)
    return Cameras(
        cam_to_world=look_at_origin(unit * distance[:, None]),
        intrinsics=intrinsics,
        width=width,
        height=height,
        azimuth_deg=azimuth_deg,
        elevation_deg=elevation_deg,
        distance=distance,
    )


def turntable(
    views: int, size: int, elevation_deg: float = 20.0, distance: float = 2.5, fov_deg: float = 45.0
) -> Cameras:
    """Return `views` cameras evenly around the object, starting at its front (azimuth 0), `size` x `size` pixels."""
    azimuth = torch.arange(views, dtype=torch.float32) * (360.0 / views)
    full = torch.full_like(azimuth, 1.0)
    return orbit(azimuth, full * elevation_deg, full * distance, fov_deg, size, size)


def sample_orbit(
    batch: int,
    size: int,
    generator: torch.Generator,
    elevation_deg: tuple[float, float] = (-10.0, 45.0),
    distance: tuple[float, float] = (2.3, 2.7),
    fov_deg: float = 45.0,
    group: int = 1,
) -> Cameras:
    """Return `batch` random cameras with azimuths stratified over the circle (one per equal sector, common jitter each).

    Stratifying makes one step see all sides; each azimuth is still uniform on [0, 360). Elevation and distance are
    uniform in their ranges. Draws come from `generator` only (a CPU generator, so every device sees the same cameras).

    Args:
        group: so many consecutive cameras look at the object from evenly spaced azimuths, 360 / group degrees apart and
            growing, at one elevation and distance. The first azimuths of the groups are stratified over that sector.
    Raises: ShapeError if the batch is not a whole number of groups.
    """
    if group < 1 or batch % group:
        raise ShapeError("the batch of cameras", f"a multiple of group = {group}, and group at least 1", (batch,))
    groups = batch // group
    jitter = torch.rand(3, groups, generator=generator)
    start = torch.rand((), generator=generator)
    first = ((torch.arange(groups) + jitter[0]) / groups + start)[:, None] / group
    azimuth = (first + torch.arange(group) / group).flatten().remainder(1.0) * 360.0
    azimuth = torch.where(azimuth >= 360.0, torch.zeros_like(azimuth), azimuth)
    jitter = jitter.repeat_interleave(group, dim=1)
    elevation = elevation_deg[0] + jitter[1] * (elevation_deg[1] - elevation_deg[0])
    radius = distance[0] + jitter[2] * (distance[1] - distance[0])
    return orbit(azimuth, elevation, radius, fov_deg, size, size)
