"""Take surfaces apart where they touch themselves, so that every edge has two triangles again.

Collapsing edges keeps a surface closed but lets it pinch: four triangles then share an edge, or two cones a tip.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
Faces = NDArray[np.int64]

_NUDGE = 0.02
"""Share of the way to its neighbours by which a split vertex moves: readers that merge equal vertices keep it apart."""
_ROUNDS = 8
"""More than are ever needed; two, as a rule."""


def separate(vertices: Points, faces: Faces) -> tuple[Points, Faces]:
    """Return the surface with every pinched edge and vertex doubled, one copy for each sheet that met there.

    vertices [V, 3]; faces [F, 3] of a surface without border: at every edge as many triangles run one way as the other
    (edge collapses keep that). Pairs of equal triangles that face each other are removed. Around an edge of four or
    more triangles those are joined that enclose the inside between them, so the pieces part and no tunnel opens; where
    both ends are shared all the same, a vertex is put into the middle of the edge.
    """
    for _ in range(_ROUNDS):
        faces = _without_opposites(faces)
        if len(faces) == 0:
            break
        first, second = _joined_edges(vertices, faces)
        vertices, faces = _parted(vertices, faces, first, second)
        chosen = _doubled(faces, first, second)
        if len(chosen) == 0:
            break
        vertices, faces = _halved(vertices, faces, first[chosen], second[chosen])
    return vertices, faces


def _parted(
    vertices: Points, faces: Faces, first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[Points, Faces]:
    """Give each sheet its own vertices; the triangles keep their numbers and order of corners."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    # Half edge h = 3 * triangle + place starts at corner h; corners at the same end of a joined edge are one vertex.
    corners = np.concatenate([first, _next(first)]), np.concatenate([_next(second), second])
    count = 3 * len(faces)
    graph = coo_matrix((np.ones(len(corners[0])), corners), (count, count))
    number, label = connected_components(graph, directed=False)
    origin = np.empty(number, np.int64)
    origin[label] = faces.ravel()
    parted = label.reshape(-1, 3).astype(np.int64)
    is_copy = np.bincount(origin, minlength=len(vertices))[origin] > 1
    return _nudged(vertices[origin], parted, is_copy), parted


def _doubled(faces: Faces, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return which joined edges have the same two ends as another one; no two of them touch the same triangle."""
    tail, head = faces.ravel()[first], faces.ravel()[_next(first)]
    edge = np.minimum(tail, head) * (int(faces.max()) + 1) + np.maximum(tail, head)
    _, group, size = np.unique(edge, return_inverse=True, return_counts=True)
    chosen: list[int] = []
    used: set[int] = set()
    for pair in np.flatnonzero(size[group.ravel()] > 1).tolist():
        triangles = {int(first[pair]) // 3, int(second[pair]) // 3}
        if not triangles & used:
            chosen.append(pair)
            used |= triangles
    return np.array(chosen, np.int64)


def _halved(
    vertices: Points, faces: Faces, first: NDArray[np.int64], second: NDArray[np.int64]
) -> tuple[Points, Faces]:
    """Put a vertex on each of some joined edges; both its triangles become two."""
    flat = faces.ravel()
    middle = np.arange(len(first)) + len(vertices)
    ends = 0.5 * (vertices[flat[first]] + vertices[flat[_next(first)]])
    tips = 0.5 * (vertices[flat[_next(_next(first))]] + vertices[flat[_next(_next(second))]])
    added = []
    result = faces.copy()
    for half in (first, second):
        added.append(np.stack([middle, flat[_next(half)], flat[_next(_next(half))]], axis=1))
        result.ravel()[_next(half)] = middle
    return np.concatenate([vertices, ends + _NUDGE * (tips - ends)]), np.concatenate([result, *added])


def _without_opposites(faces: Faces) -> Faces:
    """Return the triangles that have an area and no twin that faces the other way."""
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if len(faces) == 0:
        return faces
    turned = np.take_along_axis(faces, (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3, axis=1)
    is_flipped = turned[:, 1] > turned[:, 2]
    _, group = np.unique(np.sort(turned, axis=1), axis=0, return_inverse=True)
    group = group.ravel()
    # Of each group of equal corners, as many stay as one way outnumbers the other.
    balance = np.bincount(group, np.where(is_flipped, -1, 1))
    order = np.lexsort((is_flipped, group))
    rank = np.empty(len(faces), np.int64)
    way = group[order] * 2 + is_flipped[order]
    begin = np.searchsorted(way, way)
    rank[order] = np.arange(len(faces)) - begin
    keep = rank < np.maximum(np.where(is_flipped, -balance[group], balance[group]), 0)
    return faces[keep]


def _joined_edges(vertices: Points, faces: Faces) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return pairs of half edges (3 * triangle + place, from corner `place` to the next) that belong together."""
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    low, high = np.minimum(tail, head), np.maximum(tail, head)
    edge = low * (int(faces.max()) + 1) + high
    is_forward = tail < head
    # Around each edge the triangles are ordered by angle; a forward one has the inside on the side of smaller angles.
    angle = _angles(vertices, faces, low, high)
    order = np.lexsort((is_forward, angle, edge))
    first, second = [], []
    begins = np.flatnonzero(np.r_[True, np.diff(edge[order]) != 0, True])
    sizes = np.diff(begins)
    pairs = begins[:-1][sizes == 2]
    first.append(order[pairs])
    second.append(order[pairs + 1])
    for begin, size in zip(begins[:-1][sizes != 2], sizes[sizes != 2], strict=True):
        around = order[begin : begin + size].tolist()
        a, b = _matched(around, is_forward)
        first.append(np.array(a, np.int64))
        second.append(np.array(b, np.int64))
    return np.concatenate(first), np.concatenate(second)


def _next(half: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the half edge, or the corner, that follows in the same triangle."""
    return np.where(half % 3 == 2, half - 2, half + 1)


def _matched(around: list[int], is_forward: NDArray[np.bool_]) -> tuple[list[int], list[int]]:
    """Match each backward half edge with the forward one that follows it around the edge, as brackets are."""
    opened: list[int] = []
    first, second = [], []
    for half in around * 2:  # twice around: brackets may span the place where angles begin
        if half in first or half in second:
            continue
        if is_forward[half]:
            if opened:
                first.append(opened.pop())
                second.append(half)
        elif half not in opened:
            opened.append(half)
    return first, second


def _angles(vertices: Points, faces: Faces, low: Faces, high: Faces) -> Points:
    """Return for each half edge the angle of its triangle around the axis from vertex `low` to vertex `high`."""
    axis = vertices[high] - vertices[low]
    axis /= np.maximum(np.linalg.norm(axis, axis=1, keepdims=True), 1e-30)
    # Any two directions across the axis will do, if they are the same for all triangles of the edge.
    helper = np.eye(3)[np.abs(axis).argmin(axis=1)]
    across = np.cross(axis, helper)
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-30)
    third = vertices[np.roll(faces, -2, axis=1).ravel()] - vertices[low]
    upwards = np.cross(axis, across)
    return np.arctan2((third * upwards).sum(axis=1), (third * across).sum(axis=1))


def _nudged(vertices: Points, faces: Faces, chosen: NDArray[np.bool_]) -> Points:
    """Return `vertices` with the `chosen` ones moved a little towards the middle of their neighbours."""
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    total = np.zeros_like(vertices)
    for axis in range(3):
        total[:, axis] = np.bincount(edges[:, 0], vertices[edges[:, 1], axis], len(vertices))
    mean = total / np.maximum(np.bincount(edges[:, 0], minlength=len(vertices)), 1)[:, None]
    return np.where(chosen[:, None], vertices + _NUDGE * (mean - vertices), vertices)
