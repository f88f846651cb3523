"""From a field on a grid to a closed, smooth, light triangle mesh with colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.extinction import Array, Grid
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.separate import separate

Points = NDArray[np.float64]
Faces = NDArray[np.int64]

_TAUBIN = (0.5, -0.53)
"""Shrink and inflate factors of Taubin, "A signal processing approach to fair surface design", 1995."""


def extract(field: Array, grid: Grid) -> tuple[Points, Faces]:
    """Return world vertices [V, 3] and outward faces [F, 3] of the surface field = 1; closed if the border is below 1.

    Raises: ValueError if no surface crosses the grid.
    """
    from skimage.measure import marching_cubes

    safe = np.pad(field, 1).astype(np.float32)
    # A node exactly on the level makes triangles without area and edges that four faces share.
    safe[np.abs(safe - 1.0) < 1e-3] = 1.001
    vertices, faces, _, _ = marching_cubes(safe, level=1.0, allow_degenerate=False)
    faces = faces.astype(np.int64)
    if signed_volume(vertices, faces) < 0.0:
        faces = faces[:, ::-1]
    return grid.to_world(vertices.astype(np.float64) - 1.0), np.ascontiguousarray(faces)


def signed_volume(vertices: NDArray[np.floating], faces: Faces) -> float:
    """Return the enclosed volume, positive if the faces of a closed mesh are counter-clockwise seen from outside."""
    a, b, c = (vertices[faces[:, k]].astype(np.float64) for k in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6.0)


def is_closed(faces: Faces) -> bool:
    """Return whether every directed edge occurs once and its reverse once: watertight, manifold, one orientation."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    count = int(faces.max(initial=0)) + 1
    forward = np.unique(edges[:, 0] * count + edges[:, 1])
    backward = np.unique(edges[:, 1] * count + edges[:, 0])
    return len(faces) > 0 and len(forward) == len(edges) and np.array_equal(forward, backward)


def smooth(vertices: Points, faces: Faces, rounds: int) -> Points:
    """Return `vertices` after `rounds` of Taubin smoothing: steps of the grid vanish, volume is kept nearly."""
    from scipy import sparse

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    ones = np.ones(len(edges))
    graph = sparse.coo_matrix((ones, (edges[:, 0], edges[:, 1])), (len(vertices), len(vertices))).tocsr()
    graph = ((graph + graph.T) > 0).astype(np.float64)
    degree = np.maximum(np.asarray(graph.sum(axis=1)), 1.0)
    for _ in range(rounds):
        for factor in _TAUBIN:
            vertices = vertices + factor * (graph @ vertices / degree - vertices)
    return vertices


def decimate(vertices: Points, faces: Faces, target_faces: int) -> tuple[Points, Faces]:
    """Return a closed mesh of about `target_faces` triangles by quadric edge collapse; unchanged if it has no more.

    Collapses may pinch the surface, so that four triangles share an edge: there it is taken apart (`separate`), which
    may cost or add a few triangles. If that should ever fail, more cautious orders of collapse are tried.
    Source: Garland and Heckbert, 1997, as in the package fast-simplification.
    Limits: every separate piece and every handle keeps a few triangles, however low the target.
    """
    from fast_simplification import simplify

    if len(faces) <= target_faces:
        return vertices, faces
    for aggression in (7, 5, 3, 2):
        points, kept = simplify(
            vertices.astype(np.float32), faces.astype(np.int32), target_count=target_faces, agg=aggression
        )
        places, parted = separate(points.astype(np.float64), kept.astype(np.int64))
        if is_closed(parted) and len(parted) <= 1.2 * target_faces:
            return places, parted
    return vertices, faces


def surface_colors(mesh: Mesh, extinction: Array, colors: Array, grid: Grid, depth_cells: float = 9.0) -> Array:
    """Return [V, 3] sRGB: what is seen at each vertex looking straight at the surface.

    From one cell outside each vertex a ray goes inwards along the normal and composites colour by the extinction, as a
    volume renderer does, so the visible skin counts and the inside, which no view ever trained, does not.
    extinction [X, Y, Z] and colors [3, X, Y, Z] are those of `extinction.deposit`.
    """
    from scipy.ndimage import map_coordinates

    steps = np.arange(-1.0, depth_cells, 0.5)
    start = grid.to_index(mesh.vertices)
    light = np.ones(len(start))
    total, weight_sum = np.zeros((len(start), 3)), np.zeros(len(start))
    for step in steps:
        where = (start - step * mesh.normals).T
        here = np.maximum(map_coordinates(extinction, where, order=1), 1e-9)
        tint = np.stack([map_coordinates(channel, where, order=1) for channel in colors], axis=1) / here[:, None]
        weight = light * -np.expm1(-0.5 * grid.cell * here)
        total += weight[:, None] * tint
        weight_sum += weight
        light -= weight
    return np.clip(total / np.maximum(weight_sum, 1e-12)[:, None], 0.0, 1.0).astype(np.float32)
