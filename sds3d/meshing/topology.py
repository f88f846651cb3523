"""Which faces meet at which edges: cutting, turning, pieces and holes.

A half edge h = 3 * face + k runs from corner k of a face to the next one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.mesh import Mesh

Integers = NDArray[np.int64]

_MANY = 400
"""Closed pieces beyond which none is tested for lying inside another: each test looks at every face."""


def _edges(faces: Integers) -> tuple[Integers, Integers, Integers]:
    """Return the start and the end of every half edge and a number that both directions of an edge share."""
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    number = np.minimum(tail, head) * (int(faces.max(initial=0)) + 1) + np.maximum(tail, head)
    return tail, head, number


def _pairs(faces: Integers) -> tuple[Integers, Integers, int]:
    """Return the two half edges of every edge that has exactly two, and the number of edges that have more."""
    _, _, number = _edges(faces)
    order = np.argsort(number, kind="stable")
    begins = np.flatnonzero(np.r_[True, np.diff(number[order]) != 0, True])
    sizes = np.diff(begins)
    pairs = begins[:-1][sizes == 2]
    return order[pairs], order[pairs + 1], int((sizes > 2).sum())


def chosen_faces(mesh: Mesh, keep: NDArray[np.bool_]) -> Mesh:
    """Return the mesh of the faces for which `keep` [F] is true, without the vertices that no face needs."""
    faces = mesh.faces[keep]
    is_used = np.zeros(len(mesh.vertices), bool)
    is_used[faces] = True
    number = np.cumsum(is_used) - 1
    uv_faces = None if mesh.uv_faces is None else mesh.uv_faces[keep]
    return replace(
        mesh, vertices=mesh.vertices[is_used], colors=mesh.colors[is_used], faces=number[faces], uv_faces=uv_faces
    )


def open_edges(faces: Integers) -> int:
    """Return the number of edges that only one face has."""
    _, _, number = _edges(faces)
    return int((np.unique(number, return_counts=True)[1] == 1).sum())


def pieces(faces: Integers) -> tuple[int, Integers]:
    """Return the number of pieces that are connected across edges of two faces, and the piece [F] of each face."""
    first, second, _ = _pairs(faces)
    return _components(len(faces), first // 3, second // 3)


def _components(count: int, left: Integers, right: Integers) -> tuple[int, Integers]:
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    graph = coo_matrix((np.ones(len(left), np.int8), (left, right)), (count, count))
    number, label = connected_components(graph, directed=False)
    return int(number), label.astype(np.int64)


def cut(mesh: Mesh) -> tuple[Mesh, int]:
    """Return the mesh with every sheet on vertices of its own, and the number of edges of more than two faces.

    Where three or more faces share an edge, or sheets touch in a vertex only, each sheet gets a copy of the vertices; the
    places do not change.
    """
    faces = mesh.faces
    first, second, crowded = _pairs(faces)
    tail, _, _ = _edges(faces)
    following = np.where(np.arange(3 * len(faces)) % 3 == 2, -2, 1) + np.arange(3 * len(faces))
    is_same_way = tail[first] == tail[second]
    # Corners at the same end of an edge of two faces are one vertex; half edge h starts at corner h.
    start = np.where(is_same_way, second, following[second])
    end = np.where(is_same_way, following[second], second)
    left, right = np.concatenate([first, following[first]]), np.concatenate([start, end])
    number, label = _components(3 * len(faces), left, right)
    if number == len(np.unique(faces)):
        return mesh, crowded
    origin = np.empty(number, np.int64)
    origin[label] = faces.ravel()
    made = replace(mesh, vertices=mesh.vertices[origin], colors=mesh.colors[origin], faces=label.reshape(-1, 3))
    return made, crowded


def oriented(mesh: Mesh) -> tuple[Mesh, int, int]:
    """Return the mesh with neighbours that agree and pieces that look outwards; faces turned, and pieces without sides.

    Neighbours are compared in a graph that has each face twice, as it is and turned: what is connected in it agrees. Of
    the two copies of a closed piece the one is taken whose volume is positive, or negative for a cavity, a piece
    wholly inside an odd number of others; of an open piece the one that looks away from its middle.
    """
    count = len(mesh.faces)
    first, second, _ = _pairs(mesh.faces)
    tail, _, _ = _edges(mesh.faces)
    agree = tail[first] != tail[second]
    left, right = first // 3, second // 3
    turned = np.where(agree, right, right + count)
    both = np.concatenate([left, left + count]), np.concatenate([turned, (turned + count) % (2 * count)])
    _, label = _components(2 * count, *both)
    piece_count, piece = _components(count, left, right)
    is_one_sided = label[:count] == label[count:]
    leader = np.full(piece_count, 2 * count)
    np.minimum.at(leader, piece, np.arange(count))
    flip = (label[:count] != label[leader][piece]) & ~is_one_sided
    flip ^= _looks_inwards(mesh, _turned(mesh.faces, flip), piece_count, piece)[piece] & ~is_one_sided
    uv_faces = None if mesh.uv_faces is None else _turned(mesh.uv_faces, flip)
    made = replace(mesh, faces=_turned(mesh.faces, flip), uv_faces=uv_faces)
    return made, int(flip.sum()), len(np.unique(piece[is_one_sided]))


def _turned(faces: Integers, flip: NDArray[np.bool_]) -> Integers:
    return np.where(flip[:, None], faces[:, ::-1], faces)


def _looks_inwards(mesh: Mesh, faces: Integers, count: int, piece: Integers) -> NDArray[np.bool_]:
    """Return for each piece whether it has to be turned."""
    corners = mesh.vertices[faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    weight = np.linalg.norm(normal, axis=1)
    total = np.maximum(np.bincount(piece, weight, count), 1e-300)
    middle = corners.mean(axis=1)
    centre = (
        np.stack([np.bincount(piece, weight * middle[:, axis], count) for axis in range(3)], axis=1) / total[:, None]
    )
    outward = np.bincount(piece, (normal * (middle - centre[piece])).sum(axis=1), count)
    _, _, number = _edges(faces)
    edge, uses = np.unique(number, return_counts=True)
    is_open = np.zeros(count, bool)
    is_open[piece[(uses == 1)[np.searchsorted(edge, number)].reshape(-1, 3).any(axis=1)]] = True
    closed = np.flatnonzero(~is_open)
    is_cavity = np.zeros(count, bool)
    if 1 < len(closed) <= _MANY:
        for index in closed:
            others = ~is_open[piece] & (piece != index)
            is_cavity[index] = all(_is_inside(point, corners[others]) for point in _outermost(corners[piece == index]))
    # A flat open sheet has no outside worth guessing.
    size = np.sqrt(total)
    is_flat = is_open & (np.abs(outward) < 1e-3 * total * size)
    return np.where(is_cavity, outward > 0.0, outward < 0.0) & ~is_flat


def _outermost(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the middles [P, 3] of the triangles [F, 3, 3] that lie farthest in 26 directions.

    What is partly inside another piece (an arm that begins in a body) shows itself by these, so it is no cavity.
    """
    middles, steps = corners.mean(axis=1), np.arange(-1, 2)
    directions = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3)
    directions = directions[directions.any(axis=1)]
    return np.asarray(middles[np.unique((middles @ directions.T).argmax(axis=0))])


def _is_inside(point: NDArray[np.float64], corners: NDArray[np.float64]) -> bool:
    """Return whether a ray from `point` [3] crosses an odd number of triangles `corners` [F, 3, 3]."""
    direction = np.array([0.5377, 0.7071, 0.4593])  # skew, so that it does not run along edges of boxes
    # Moeller and Trumbore, 1997.
    edge1, edge2 = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    across = np.cross(direction, edge2)
    determinant = (edge1 * across).sum(axis=1)
    safe = np.where(np.abs(determinant) < 1e-15, np.inf, determinant)
    offset = point - corners[:, 0]
    u = (offset * across).sum(axis=1) / safe
    other = np.cross(offset, edge1)
    v = other @ direction / safe
    distance = (edge2 * other).sum(axis=1) / safe
    return int(((u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 0) & np.isfinite(safe)).sum()) % 2 == 1


def largest_pieces(mesh: Mesh, keep_share: float) -> tuple[Mesh, int]:
    """Return the pieces with at least `keep_share` of the largest one's area, and how many were removed."""
    count, piece = pieces(mesh.faces)
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = np.bincount(piece, area, count)
    keep = total >= keep_share * total.max()
    return chosen_faces(mesh, keep[piece]), int((~keep).sum())


def filled(mesh: Mesh, largest_hole: int) -> tuple[Mesh, int]:
    """Return the mesh with every hole of at most `largest_hole` edges closed by a fan, and how many were.

    Every vertex must have at most one open edge that leaves it (`cut` and `oriented` see to that). New corners take the
    texture coordinate of the border.
    """
    half, ring = _rings(mesh, largest_hole)
    if len(half) == 0:
        return mesh, 0
    tail, head, _ = _edges(mesh.faces)
    count = int(ring.max()) + 1

    def middles(values: NDArray[np.float32]) -> NDArray[np.float32]:
        total = np.stack([np.bincount(ring, values[tail[half], axis], count) for axis in range(3)], axis=1)
        return (total / np.bincount(ring, minlength=count)[:, None]).astype(np.float32)

    uv_faces = mesh.uv_faces
    if uv_faces is not None:
        uv_faces = np.concatenate([uv_faces, uv_faces.ravel()[half][:, None].repeat(3, axis=1)])
    fan = np.stack([head[half], tail[half], len(mesh.vertices) + ring], axis=1)
    closed = replace(
        mesh,
        vertices=np.concatenate([mesh.vertices, middles(mesh.vertices)]),
        colors=np.concatenate([mesh.colors, middles(mesh.colors)]),
        faces=np.concatenate([mesh.faces, fan]),
        uv_faces=uv_faces,
    )
    return closed, count


def _rings(mesh: Mesh, largest: int) -> tuple[Integers, Integers]:
    """Return the half edges [E] around the holes that are plain rings of 3 to `largest` edges, and the ring of each."""
    tail, head, number = _edges(mesh.faces)
    _, group, uses = np.unique(number, return_inverse=True, return_counts=True)
    half = np.flatnonzero(uses[group.ravel()] == 1)
    count, label = _components(len(mesh.vertices), tail[half], head[half])
    hole = label[tail[half]]
    sizes = np.bincount(hole, minlength=count)
    leaves, enters = (np.bincount(end[half], minlength=len(mesh.vertices)) for end in (tail, head))
    is_ring = (sizes >= 3) & (sizes <= largest)
    is_ring[label[(leaves != enters) | (leaves > 1)]] = False
    return half[is_ring[hole]], (np.cumsum(is_ring) - 1)[hole[is_ring[hole]]]
