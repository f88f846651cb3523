"""The visual hull: the largest body that fits all silhouettes, as points with normals to start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError

if TYPE_CHECKING:
    from sds3d.meshing.mesh import Mesh

_SMOOTHING = 1.0
"""Standard deviation, in cells, of the blur before the surface is drawn: a carved body is blocky."""


def occupancy(views: ViewSet, resolution: int, half: float, tolerance: float = 0.0) -> Tensor:
    """Return [R, R, R] in [0, 1] (x, y, z), the smallest alpha with which any view sees the centres of a grid's cells.

    half: half of the edge of the grid about the origin, world units. tolerance: share of the views that may disagree.
    A point outside of a picture is not judged by it. Points farther than `half` from the origin are empty: pictures that are
    filled by the object judge the corners of the grid only along lines that the object covers.
    """
    line = (torch.arange(resolution) + 0.5) / resolution * (2.0 * half) - half
    points = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).view(-1, 3)
    cameras, seen = views.cameras, []
    for row in range(len(views)):
        local = points @ cameras.world_to_cam[row, :3, :3].T + cameras.world_to_cam[row, :3, 3]
        flat = local @ cameras.intrinsics[row].T
        pixel = flat[:, :2] / flat[:, 2:].clamp_min(1e-6)
        place = pixel / torch.tensor([cameras.width, cameras.height]) * 2.0 - 1.0
        alpha = torch.nn.functional.grid_sample(
            views.alpha[row].permute(2, 0, 1)[None], place[None, None], align_corners=False, padding_mode="border"
        )[0, 0, 0]
        is_judged = (place.abs() <= 1.0).all(dim=1) & (local[:, 2] > 0)
        seen.append(torch.where(is_judged, alpha, torch.ones_like(alpha)))
    allowed = int(tolerance * len(views))
    least = torch.stack(seen).kthvalue(allowed + 1, dim=0).values
    least = least * (torch.linalg.vector_norm(points, dim=1) <= half)
    return least.view(resolution, resolution, resolution)


def hull_mesh(views: ViewSet, resolution: int = 64, half: float = 1.0, tolerance: float = 0.0) -> Mesh:
    """Return the surface of the visual hull, grey; arguments as `hull_points`. Raises: AssetError as that does."""
    from sds3d.meshing.mesh import Mesh

    vertices, faces, _ = _surface(views, resolution, half, tolerance)
    return Mesh(vertices, faces[:, ::-1], np.full_like(vertices, 0.5))  # the body is where the grid is high


def _surface(
    views: ViewSet, resolution: int, half: float, tolerance: float
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Return vertices [V, 3] and faces [F, 3] (clockwise seen from outside) of the hull, and the padded grid it is drawn in."""
    from scipy.ndimage import gaussian_filter
    from skimage.measure import marching_cubes

    grid = gaussian_filter(np.pad(occupancy(views, resolution, half, tolerance).numpy(), 1), _SMOOTHING)
    if not grid.max() > 0.5:
        raise AssetError(
            f"The silhouettes of the set '{views.name}' have nothing in common within {half:g} world units of the origin. "
            "Check that the cameras fit the pictures and the object is at the origin, or start from 'ball'."
        )
    vertices, faces, _, _ = marching_cubes(grid, 0.5)
    return ((vertices - 0.5) / resolution * 2.0 * half - half).astype(np.float32), faces.astype(np.int64), grid


def hull_points(
    views: ViewSet,
    count: int,
    generator: torch.Generator,
    resolution: int = 64,
    half: float = 1.0,
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return `count` points [N, 3] spread over the surface of the visual hull, their normals [N, 3] outwards and the mean
    colours [N, 3] of the pictures that face them.

    Raises: AssetError if the silhouettes have nothing in common (wrong cameras, or an object outside of the grid).
    Source: Laurentini 1994. Limits: dents that no silhouette shows are filled; occlusion of one part by another is not
    considered for colours.
    """
    vertices, faces, grid = _surface(views, resolution, half, tolerance)
    corners = torch.from_numpy(vertices[faces])
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=1)
    area = torch.linalg.vector_norm(across, dim=1)
    chosen = torch.multinomial(area, count, replacement=True, generator=generator)
    mix = torch.rand(count, 2, generator=generator)
    mix = torch.where(mix.sum(dim=1, keepdim=True) > 1.0, 1.0 - mix, mix)
    some = corners[chosen]
    points = some[:, 0] + mix[:, :1] * (some[:, 1] - some[:, 0]) + mix[:, 1:] * (some[:, 2] - some[:, 0])
    normals = _smooth_normals(grid, points, resolution, half)
    return points, normals, _colours(views, points, normals)


def _smooth_normals(grid: np.ndarray, points: Tensor, resolution: int, half: float) -> Tensor:
    """Return the directions [N, 3] in which the blurred body falls off."""
    slope = torch.from_numpy(np.stack(list(np.gradient(grid.astype(np.float32))), axis=0))  # [3, R, R, R] along x, y, z
    size = resolution + 2
    place = ((points + half) / (2.0 * half) * resolution + 1.0) / size * 2.0 - 1.0
    found = torch.nn.functional.grid_sample(slope[None], place.flip(-1)[None, None, None], align_corners=False)
    return torch.nn.functional.normalize(-found[0, :, 0, 0].T, dim=1)


def _colours(views: ViewSet, points: Tensor, normals: Tensor) -> Tensor:
    """Return the mean colour [N, 3] of the pictures, weighted by how squarely they face each point."""
    cameras, total, weight = views.cameras, torch.zeros_like(points), torch.full_like(points[:, :1], 1e-6)
    for row in range(len(views)):
        local = points @ cameras.world_to_cam[row, :3, :3].T + cameras.world_to_cam[row, :3, 3]
        flat = local @ cameras.intrinsics[row].T
        place = flat[:, :2] / flat[:, 2:] / torch.tensor([cameras.width, cameras.height]) * 2.0 - 1.0
        picture = torch.cat([views.images[row], views.alpha[row]], dim=-1).permute(2, 0, 1)[None]
        found = torch.nn.functional.grid_sample(picture, place[None, None], align_corners=False)[0, :, 0].T
        towards = torch.nn.functional.normalize(cameras.cam_to_world[row, :3, 3] - points, dim=1)
        share = (towards * normals).sum(dim=1, keepdim=True).clamp_min(0.0).square() * found[:, 3:]
        total, weight = total + share * found[:, :3], weight + share
    return (total / weight).clamp(0.0, 1.0)
