"""Where in the soft rim of splats is the surface? Where outlines agree best with silhouettes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.cameras import Cameras
from sds3d.errors import ShapeError
from sds3d.meshing import carve
from sds3d.meshing.extinction import Array, Grid

_SKINS = (0.02, 0.035, 0.05, carve.USUAL_SKIN, 0.1, 0.14, 0.2, 0.28)
"""Optical depths among which the best skin is chosen."""


@dataclass(frozen=True)
class _View:
    """A sample of P pixels of one view: alpha [P], and index [P, K, 3] of K points on each ray, in nodes of a grid."""

    alpha: Array
    index: NDArray[np.floating] | NDArray[np.integer]


@dataclass(frozen=True)
class Silhouettes:
    """What a renderer saw of the splats: it decides how much of the soft rim belongs to the mesh.

    Args: alpha [B, H, W] or [B, H, W, 1] in [0, 1], array or CPU tensor. cameras: the B cameras, same size.
    """

    alpha: ArrayLike
    cameras: Cameras


def choose_skin(extinction: Array, grid: Grid, opaque: float, silhouettes: Silhouettes | None = None) -> float:
    """Return the optical depth before the surface with which the outlines agree best with silhouettes.

    The score is the mean over views of intersection over union of the outline of the inside and the silhouette, which
    is where alpha > 0.5, or half the largest alpha if that is lower. Without `silhouettes` those of the volume itself,
    seen along the three axes, are taken. extinction is [X, Y, Z] on `grid`; opaque as in `carve.hidden`.
    """
    views = _axis_views(extinction, grid) if silhouettes is None else _camera_views(silhouettes, grid)
    brightest = max(float(view.alpha.max(initial=0.0)) for view in views)
    seen = [view.alpha > min(0.5, 0.5 * brightest) for view in views]

    @cache
    def score(number: int) -> float:
        field, pieces = carve.clean(carve.hidden(extinction, grid.cell, _SKINS[number], opaque))
        return overlap([outline(field, view) for view in views], seen) if pieces else -1.0

    # The score has one summit: climb to it from the usual value.
    number = _SKINS.index(carve.USUAL_SKIN)
    for direction in (-1, 1):
        while 0 <= number + direction < len(_SKINS) and score(number + direction) > score(number):
            number += direction
    return _SKINS[number]


def outline(field: Array, view: _View) -> NDArray[np.bool_]:
    """Return [P]: whether the ray of each pixel of `view` meets the inside (field >= 1, trilinear between nodes)."""
    from scipy.ndimage import map_coordinates

    values = map_coordinates(field, view.index.reshape(-1, 3).T, order=1, cval=0.0)
    return (values.reshape(view.index.shape[:2]) >= 1.0).any(axis=1)


def overlap(found: Sequence[NDArray[np.bool_]], wanted: Sequence[NDArray[np.bool_]]) -> float:
    """Return the mean over views of intersection over union; a view that is empty in both counts as 1."""
    unions = [int((a | b).sum()) for a, b in zip(found, wanted, strict=True)]
    shared = [int((a & b).sum()) for a, b in zip(found, wanted, strict=True)]
    return float(np.mean([s / u if u else 1.0 for s, u in zip(shared, unions, strict=True)]))


def _axis_views(extinction: Array, grid: Grid) -> list[_View]:
    """Return three parallel projections of the volume, one along each axis, one pixel a row of nodes."""
    index = np.stack(np.meshgrid(*map(np.arange, extinction.shape), indexing="ij"), axis=-1)
    views = []
    for axis in range(3):
        alpha = -np.expm1(-grid.cell * extinction.sum(axis=axis))
        views.append(_View(alpha.ravel(), np.moveaxis(index, axis, 2).reshape(alpha.size, -1, 3)))
    return views


def _camera_views(silhouettes: Silhouettes, grid: Grid) -> list[_View]:
    """Return the views of the cameras, with at most about 40 x 40 pixels each."""
    cameras = silhouettes.cameras
    given = np.asarray(silhouettes.alpha, np.float32)
    alpha = given[..., 0] if given.ndim == 4 and given.shape[3] == 1 else given
    expected = (len(cameras), cameras.height, cameras.width)
    if alpha.shape != expected:
        raise ShapeError("Silhouettes.alpha", f"{list(expected)}, as many and as large as its cameras,", given.shape)
    stride = max(1, round(max(cameras.height, cameras.width) / 40))
    picks = (np.arange(size)[stride // 2 :: stride] for size in (cameras.height, cameras.width))
    rows, columns = np.meshgrid(*picks, indexing="ij")
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones(rows.shape)], axis=-1).reshape(-1, 3)
    last = np.array(grid.shape) - 1
    centre, radius = grid.to_world(0.5 * last), 0.5 * grid.cell * float(np.linalg.norm(last))
    views = []
    for view, pose, intrinsics in zip(alpha, cameras.cam_to_world.numpy(), cameras.intrinsics.numpy(), strict=True):
        rays = pixels @ np.linalg.inv(intrinsics.astype(np.float64)).T @ pose[:3, :3].T
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        middle = rays @ (centre - pose[:3, 3])  # where each ray is nearest to the middle of the grid
        along = np.maximum(middle[:, None] + np.arange(-radius, radius, grid.cell), 0.0)
        points = pose[:3, 3] + along[..., None] * rays[:, None]
        views.append(_View(view[rows, columns].ravel(), grid.to_index(points)))
    return views
