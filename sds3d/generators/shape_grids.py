"""Toybox objects as small grids of distance and colour: what a flow model of shapes is trained on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from sds3d.toybox.shape import ToyMesh

GRID = 12
"""Nodes along an edge of the box [-1, 1]^3, at the centres of equal cells."""
SHELL, FARTHEST = 0.07, 0.3
"""Half the thickness of the shell that stands for a surface, and the distance at which values are cut, world units."""
SURFACE_POINTS = 6000


def surface_points(
    mesh: ToyMesh, count: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return points [count, 3] spread evenly over all triangles, and their colours [count, 3]."""
    corners = mesh.corners
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = rng.choice(len(corners), count, p=area / area.sum())
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    weight = np.stack([1.0 - u, u * (1.0 - v), u * v], axis=1)
    points = np.einsum("nk,nkd->nd", weight, corners[face])
    return points.astype(np.float32), mesh.colors[face].astype(np.float32)


def shape_grid(what: Description, rng: np.random.Generator, size: int = GRID) -> Tensor:
    """Return [4, z, y, x] float32 in about [-1, 1]: cut distance over `FARTHEST`, then colours 2 c - 1 of the nearest surface.

    The distance is that from the surface less `SHELL`: parts of toybox objects overlap, so inside is not defined; a shell looks
    the same from outside. Equal generators give equal grids. See `field_values` for the way back.
    """
    from scipy.spatial import cKDTree

    points, colours = surface_points(build(what, rng), SURFACE_POINTS, rng)
    line = (2.0 * np.arange(size) + 1.0) / size - 1.0
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    distance, nearest = cKDTree(points).query(np.stack([x, y, z], axis=-1).reshape(-1, 3))
    cut = np.clip((distance - SHELL) / FARTHEST, -1.0, 1.0)
    values = np.concatenate([cut[:, None], 2.0 * colours[nearest] - 1.0], axis=1)
    return torch.from_numpy(values.T.reshape(4, size, size, size).astype(np.float32))


def turned(grids: Tensor, quarters: int) -> Tensor:
    """Return grids [..., z, y, x] of the same objects, turned by quarters of a circle about +z, from +x towards +y."""
    return torch.rot90(grids, -quarters, dims=(-2, -1))


def field_values(grids: Tensor) -> Tensor:
    """Return [B, 4, z, y, x] of grids as `renderers.triplane_grid.GridField` reads them with `start_radius` 0.

    There distances are added to the distance from the origin, which is taken off here at the nodes.
    """
    size = grids.shape[-1]
    line = (2.0 * torch.arange(size, dtype=grids.dtype, device=grids.device) + 1.0) / size - 1.0
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    sphere = (x.square() + y.square() + z.square()).sqrt()
    distance = FARTHEST * grids[:, :1] - sphere
    return torch.cat([distance, (0.5 * grids[:, 1:] + 0.5).clamp(0.0, 1.0)], dim=1)
