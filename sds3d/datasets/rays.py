"""Where rays meet triangles: a bounding-box tree and its walk, compiled, on one thread.

Only the rendered sets need it, so it is small and exact rather than fast: both sides of a triangle are hit, and the nearest
hit is returned.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

LEAF = 4
"""Most triangles of a leaf."""
_DEPTH = 64
"""Room for nodes still to be visited; the tree halves its triangles, so a depth of 40 is never reached."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Tree:
    """A bounding-box tree over F triangles.

    Args:
        corners: [F, 3, 3] float64 in the order of the leaves. order: [F] int64, which triangle of the caller each one is.
        bounds: [N, 2, 3] lowest and highest corner of each node.
        first: [N] int64, first triangle of a leaf, or the left child of an inner node (the right one is next to it).
        count: [N] int64 triangles of a leaf, 0 for an inner node.
    """

    corners: Array
    order: Array
    bounds: Array
    first: Array
    count: Array


def build(corners: Array) -> Tree:
    """Return the tree of triangles `corners` [F, 3, 3], F >= 1, split at the median along the longest side."""
    corners = np.ascontiguousarray(corners, np.float64)
    middle = corners.mean(axis=1)
    order = np.arange(len(corners))
    bounds, first, count = [np.zeros((2, 3))], [0], [0]
    waiting = [(0, 0, len(corners))]
    while waiting:
        node, start, stop = waiting.pop()
        rows = order[start:stop]
        bounds[node] = np.stack([corners[rows].min(axis=(0, 1)), corners[rows].max(axis=(0, 1))])
        if stop - start <= LEAF:
            first[node], count[node] = start, stop - start
            continue
        axis = int(np.ptp(middle[rows], axis=0).argmax())
        half = (stop - start) // 2
        order[start:stop] = rows[np.argpartition(middle[rows, axis], half)]
        first[node] = len(bounds)
        for low, high in ((start, start + half), (start + half, stop)):
            waiting.append((len(bounds), low, high))
            bounds.append(np.zeros((2, 3)))
            first.append(0)
            count.append(0)
    return Tree(corners[order], order, np.stack(bounds), np.array(first), np.array(count))


def trace(tree: Tree, origins: Array, directions: Array) -> tuple[Array, Array, Array]:
    """Return (face [R] int64 or -1, distance [R], barycentrics [R, 2] of the second and third corner) of the nearest hits.

    origins, directions: [R, 3]; distances are in units of the directions' lengths. Hits nearer than 1e-6 do not count.
    Source: Möller and Trumbore, 1997; slab test of Kay and Kajiya, 1986.
    """
    face, distance, weights = _trace(
        tree.corners,
        tree.bounds,
        tree.first,
        tree.count,
        np.ascontiguousarray(origins, np.float64),
        np.ascontiguousarray(directions, np.float64),
    )
    return np.where(face >= 0, tree.order[np.maximum(face, 0)], -1), distance, weights


@numba.njit(cache=True, nogil=True)
def _enters(bounds, node, origin, inverse, nearest):  # type: ignore[no-untyped-def]
    """Return whether a ray enters a node's box before `nearest`."""
    start, stop = 0.0, nearest
    for axis in range(3):
        a = (bounds[node, 0, axis] - origin[axis]) * inverse[axis]
        b = (bounds[node, 1, axis] - origin[axis]) * inverse[axis]
        if a > b:
            a, b = b, a
        start, stop = max(start, a), min(stop, b)
    return start <= stop * (1.0 + 1e-9) + 1e-12


@numba.njit(cache=True, nogil=True)
def _meets(triangle, origin, way):  # type: ignore[no-untyped-def]
    """Return (distance or -1, weight of corner 1, weight of corner 2) of a ray and a triangle [3, 3]."""
    ax, ay, az = triangle[0, 0], triangle[0, 1], triangle[0, 2]
    ux, uy, uz = triangle[1, 0] - ax, triangle[1, 1] - ay, triangle[1, 2] - az
    vx, vy, vz = triangle[2, 0] - ax, triangle[2, 1] - ay, triangle[2, 2] - az
    px, py, pz = way[1] * vz - way[2] * vy, way[2] * vx - way[0] * vz, way[0] * vy - way[1] * vx
    determinant = ux * px + uy * py + uz * pz
    if abs(determinant) < 1e-14:
        return -1.0, 0.0, 0.0
    tx, ty, tz = origin[0] - ax, origin[1] - ay, origin[2] - az
    first = (tx * px + ty * py + tz * pz) / determinant
    qx, qy, qz = ty * uz - tz * uy, tz * ux - tx * uz, tx * uy - ty * ux
    second = (way[0] * qx + way[1] * qy + way[2] * qz) / determinant
    if first < 0.0 or second < 0.0 or first + second > 1.0:
        return -1.0, 0.0, 0.0
    return (vx * qx + vy * qy + vz * qz) / determinant, first, second


@numba.njit(cache=True, nogil=True)
def _trace(corners, bounds, first, count, origins, directions):  # type: ignore[no-untyped-def]
    """Return faces, distances and weights of the nearest hits; see `trace`."""
    rays = len(origins)
    face = np.full(rays, -1, np.int64)
    distance = np.full(rays, np.inf)
    weights = np.zeros((rays, 2))
    waiting = np.zeros(_DEPTH, np.int64)
    inverse = np.zeros(3)
    for ray in range(rays):
        origin, way = origins[ray], directions[ray]
        for axis in range(3):
            inverse[axis] = 1.0 / way[axis] if abs(way[axis]) > 1e-12 else 1e12
        nearest, size = 1e30, 1
        waiting[0] = 0
        while size > 0:
            size -= 1
            node = waiting[size]
            if not _enters(bounds, node, origin, inverse, nearest):
                continue
            if count[node] == 0:
                waiting[size], waiting[size + 1] = first[node], first[node] + 1
                size += 2
                continue
            for f in range(first[node], first[node] + count[node]):
                t, u, v = _meets(corners[f], origin, way)
                if 1e-6 < t < nearest:
                    nearest = t
                    face[ray], distance[ray] = f, t
                    weights[ray, 0], weights[ray, 1] = u, v
    return face, distance, weights
