"""How much of its sky a mesh leaves to each of its points: ambient occlusion from pictures of its depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise

DIRECTIONS, SIZE = 96, 192
"""Directions that are looked from, evenly on the sphere, and the side of each picture in pixels."""
LIFT = 0.012
"""Points are lifted so far off the surface, and may lie so far behind the nearest depth, in radii of the mesh."""
STEEPEST = 4.0
"""Slope up to which the second of these grows: a pixel of the depth is flat, the surface in it is not."""
_FAR = 1e3
_CHUNK = 1 << 15


class Openness:
    """The sky that the points of a mesh see: V vertices [V, 3], F faces [F, 3].

    One orthographic picture of the depth a direction, drawn when this is made. Nothing here has a gradient.
    Limits: hidden is hidden, whatever it sends back; details smaller than a pixel (a 96th of the radius) are missed.
    """

    def __init__(self, vertices: Tensor, faces: Tensor, backend: str = "auto") -> None:
        with torch.no_grad():
            self.axes = _frames(spiral(DIRECTIONS)).to(vertices)  # [D, (right, down, forward), xyz]
            self.radius = float(torch.linalg.vector_norm(vertices, dim=1).max()) * 1.02
            self.depth = torch.cat([self._depth(vertices, faces, axes, backend) for axes in self.axes.split(16)])

    def _depth(self, vertices: Tensor, faces: Tensor, axes: Tensor, backend: str) -> Tensor:
        """Return [D, SIZE, SIZE], the place of the nearest surface along the third axis, `_FAR` where there is none."""
        local = torch.einsum("dij,vj->dvi", axes, vertices)
        clip = torch.cat([local / self.radius, torch.ones_like(local[..., :1])], dim=-1).contiguous()
        fragments = rasterise(clip, faces, SIZE, SIZE, backend)
        depth = interpolate(local[..., 2:].contiguous(), faces, fragments)[..., 0]
        return torch.where(fragments.mask, depth, torch.full_like(depth, _FAR))

    @torch.no_grad()
    def at(self, points: Tensor, normals: Tensor) -> Tensor:
        """Return [P, 1] in [0, 1], the cosine-weighted share of directions that leave points [P, 3] with unit normals."""
        parts = zip(points.split(_CHUNK), normals.split(_CHUNK), strict=True)
        found = [self._at(point, normal) for point, normal in parts]
        return torch.cat(found) if found else points.new_zeros(0, 1)

    def _at(self, points: Tensor, normals: Tensor) -> Tensor:
        cosine = (-(normals @ self.axes[:, 2].T)).clamp_min(0.0)  # [P, D]; the axis looks from the sky to the mesh
        local = torch.einsum("dij,pj->dpi", self.axes, points + LIFT * self.radius * normals)
        place = 0.5 * (local[..., :2] / self.radius + 1.0) * SIZE - 0.5
        slope = ((1.0 - cosine.square()).clamp_min(0.0).sqrt() / cosine.clamp_min(1e-3)).clamp_max(STEEPEST)
        limit = local[..., 2] - LIFT * self.radius * (1.0 + slope.T)
        is_seen = torch.zeros_like(limit)
        for right, down in ((0, 0), (1, 0), (0, 1), (1, 1)):
            column, row = (place[..., axis].floor().long() + step for axis, step in ((0, right), (1, down)))
            near = 1.0 - (place - torch.stack([column, row], dim=-1)).abs()
            is_seen += near.prod(dim=-1) * (self._nearest(column, row) >= limit)
        total = cosine.sum(dim=1, keepdim=True).clamp_min(1e-6)
        return (cosine * is_seen.T).sum(dim=1, keepdim=True) / total

    def _nearest(self, column: Tensor, row: Tensor) -> Tensor:
        """Return the depth [D, P] at pixels [D, P] of each picture."""
        number = torch.arange(len(self.axes), device=row.device)[:, None]
        index = (number * SIZE + row.clamp(0, SIZE - 1)) * SIZE + column.clamp(0, SIZE - 1)
        return self.depth.flatten().index_select(0, index.flatten()).view(index.shape)


def spiral(count: int) -> Tensor:
    """Return [count, 3] unit vectors spread evenly over the sphere (Fibonacci's spiral)."""
    index = torch.arange(count, dtype=torch.float64) + 0.5
    z = 1.0 - 2.0 * index / count
    angle = math.pi * (3.0 - math.sqrt(5.0)) * index
    flat = (1.0 - z * z).sqrt()
    return torch.stack([flat * angle.cos(), flat * angle.sin(), z], dim=1).float()


def _frames(sky: Tensor) -> Tensor:
    """Return [D, 3, 3] orthonormal rows; the third one looks from directions `sky` [D, 3] to the origin."""
    forward = -sky
    helper = torch.where(sky[:, 2:].abs() < 0.9, torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0]))
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, helper, dim=1), dim=1)
    return torch.stack([right, torch.linalg.cross(forward, right, dim=1), forward], dim=1)
