"""Marching tetrahedra on a body-centred grid: the extraction step of DMTet, in plain torch.

Source: Shen et al., "Deep Marching Tetrahedra", 2021, section 3.1; Doi and Koide, 1991, for the sixteen cases.
Deviations: inside is negative (DMTet: positive). The grid is the body-centred cubic lattice, whose tetrahedra are all
alike, instead of a file of a grid made elsewhere. No subdivision and no graph network: nodes are free parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.isosurface.crossings import zero_crossings
from sds3d.errors import ConfigError, ShapeError

EDGES = tuple(combinations(range(4), 2))
"""The six edges of a tetrahedron as pairs of its corners."""
DEFORM_LIMIT = 0.25
"""How far a node within the grid may move along each axis, in cells: up to there no tetrahedron can turn inside out, as
trying all corners of the box of moves shows; border nodes stay."""


@dataclass(frozen=True)
class TetGrid:
    """A cube of side 2 `radius` about the origin, filled with tetrahedra.

    Args:
        nodes: [N, 3] float32. tets: [T, 4] int32 rows of `nodes`, all of positive volume.
        border: [N] bool, nodes on the surface of the cube. cell: distance of neighbouring corners, world units.
    """

    nodes: Tensor
    tets: Tensor
    border: Tensor
    cell: float


@dataclass(frozen=True)
class TetSurface:
    """The triangles a choice of inside nodes implies, without positions.

    Args:
        crossings: [V, 2] int64, (inside node, outside node) of the edge each vertex lies on.
        faces: [F, 3] int64 rows of `crossings`, counter-clockwise seen from outside.
    """

    crossings: Tensor
    faces: Tensor


def body_centred_grid(resolution: int, radius: float = 1.0) -> TetGrid:
    """Return the grid of `resolution` cubes a side: (r + 1)^3 corners, r^3 centres, about 12 r^3 tetrahedra.

    Around the face between two cubes lie four tetrahedra, each of both centres and one edge of the face; on the
    surface of the grid a face has one centre and two tetrahedra. Raises: ConfigError if resolution < 2.
    """
    if resolution < 2:
        raise ConfigError(
            f"The grid has resolution {resolution}, but at least 2 is needed. Give more cells.", "renderer.resolution"
        )
    n = resolution
    corner = np.arange((n + 1) ** 3, dtype=np.int32).reshape(n + 1, n + 1, n + 1)
    centre = (n + 1) ** 3 + np.arange(n**3, dtype=np.int32).reshape(n, n, n)
    line = np.arange(n + 1, dtype=np.float32)
    corners = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
    centres = np.stack(np.meshgrid(*[line[:-1] + 0.5] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    places = np.concatenate([corners, centres])
    pieces = [_outward(piece, places) for axis in range(3) for piece in _tets_across(corner, centre, axis)]
    cell = 2.0 * radius / n
    border = ((places == 0) | (places == n)).any(axis=1)
    nodes = torch.from_numpy((places * cell - radius).astype(np.float32))
    return TetGrid(nodes, torch.from_numpy(np.concatenate(pieces)), torch.from_numpy(border), cell)


def _tets_across(corner: NDArray[np.int32], centre: NDArray[np.int32], axis: int) -> list[NDArray[np.int32]]:
    """Return groups [*, 4] of tetrahedra around all faces at right angles to `axis`, alike but for their place."""
    corner, centre = np.moveaxis(corner, axis, 0), np.moveaxis(centre, axis, 0)
    ring = [corner[:, :-1, :-1], corner[:, 1:, :-1], corner[:, 1:, 1:], corner[:, :-1, 1:]]
    inner = [q[1:-1] for q in ring]
    pieces = [(centre[:-1], centre[1:], inner[k], inner[(k + 1) % 4]) for k in range(4)]
    for side in (0, -1):
        outer = [q[side] for q in ring]
        pieces += [(centre[side], outer[0], outer[1], outer[2]), (centre[side], outer[0], outer[2], outer[3])]
    return [np.stack(piece, axis=-1).reshape(-1, 4) for piece in pieces]


def _outward(tets: NDArray[np.int32], places: NDArray[np.float32]) -> NDArray[np.int32]:
    """Return tetrahedra that are alike with positive volume: two corners swapped in all if the first has a negative one."""
    first = places[tets[0]].astype(np.float64)
    return tets if np.linalg.det(first[1:] - first[0]) > 0 else tets[:, [0, 1, 3, 2]]


@cache
def triangle_table() -> tuple[Tensor, Tensor]:
    """Return (triangles [16, 2, 3], count [16]): the edges the triangles of each case end on, -1 where there are none.

    Bit k of a case says that corner k is inside. Derived: one corner apart from three gives a triangle, two from two a
    quadrangle, whose corners are taken in a ring; a reference tetrahedron of positive volume tells which way is out.
    """
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    middles = np.array([(corners[a] + corners[b]) / 2 for a, b in EDGES])
    triangles, count = np.full((16, 2, 3), -1), np.zeros(16, int)
    for case in range(1, 15):
        inside = [k for k in range(4) if case >> k & 1]
        outside = [k for k in range(4) if k not in inside]
        if len(inside) == 2:
            (a, b), (c, d) = inside, outside
            ends = [(a, c), (a, d), (b, d), (b, c)]
        else:
            ends = [(a, b) for a in inside for b in outside]
        ring = [EDGES.index((min(pair), max(pair))) for pair in ends]
        normal = np.cross(middles[ring[1]] - middles[ring[0]], middles[ring[2]] - middles[ring[0]])
        if normal @ (corners[outside].mean(axis=0) - corners[inside].mean(axis=0)) < 0:
            ring.reverse()
        count[case] = len(ring) - 2
        for k in range(count[case]):
            triangles[case, k] = (ring[0], ring[k + 1], ring[k + 2])
    return torch.from_numpy(triangles), torch.from_numpy(count)


@torch.no_grad()
def find_triangles(inside: Tensor, tets: Tensor) -> TetSurface:
    """Return the surface between nodes that are `inside` [N] bool and those that are not; `tets` [T, 4].

    It is closed and manifold (each edge in two triangles) wherever it stays away from the border of the grid.
    """
    signs = inside.to(torch.uint8).index_select(0, tets.reshape(-1)).reshape(tets.shape)
    four = signs.view(torch.int32)[:, 0]  # four bytes read as one number: all zeros or all ones are no surface
    active = ((four != 0) & (four != 0x01010101)).nonzero()[:, 0]
    near = tets.index_select(0, active).long()
    case = (signs.index_select(0, active).long() * torch.tensor([1, 2, 4, 8], device=tets.device)).sum(dim=1)
    pairs = near[:, torch.tensor(EDGES, device=tets.device)]  # [A, 6, 2]
    ends = inside[pairs]
    is_crossing = ends[..., 0] != ends[..., 1]
    pairs = torch.where(ends[..., :1], pairs, pairs.flip(-1))  # inside end first
    keys = pairs[..., 0] * inside.shape[0] + pairs[..., 1]
    unique, number = torch.unique(keys[is_crossing], return_inverse=True)
    vertex_of = torch.zeros_like(keys).masked_scatter_(is_crossing, number)
    table, count = (part.to(tets.device) for part in triangle_table())
    faces = []
    for k in range(2):
        has = count[case] > k
        faces.append(vertex_of[has].gather(1, table[case[has], k]))
    crossings = torch.stack([unique // inside.shape[0], unique % inside.shape[0]], dim=1)
    return TetSurface(crossings, torch.cat(faces))


def place_vertices(nodes: Tensor, sdf: Tensor, crossings: Tensor) -> Tensor:
    """Return [V, 3] zero crossings of `sdf` [N] on the edges `crossings` [V, 2] between `nodes` [N, 3]."""
    first, second = crossings.unbind(dim=1)
    return zero_crossings(
        nodes.index_select(0, first), nodes.index_select(0, second),
        sdf.index_select(0, first), sdf.index_select(0, second),
    )  # fmt: skip


def marching_tetrahedra(nodes: Tensor, sdf: Tensor, tets: Tensor) -> tuple[Tensor, TetSurface]:
    """Return (vertices [V, 3], surface) of sdf = 0, differentiable with respect to `nodes` [N, 3] and `sdf` [N].

    Raises: ShapeError if the arguments do not fit together. Limits: the triangles are found anew on each call, from the
    signs alone, and carry no gradient; a node exactly at 0 counts as outside and makes triangles without area.
    """
    if nodes.dim() != 2 or nodes.shape[1] != 3:
        raise ShapeError("nodes", "[N, 3]", tuple(nodes.shape))
    if sdf.shape != nodes.shape[:1]:
        raise ShapeError("sdf", f"[{nodes.shape[0]}]", tuple(sdf.shape))
    if tets.dim() != 2 or tets.shape[1] != 4:
        raise ShapeError("tets", "[T, 4]", tuple(tets.shape))
    surface = find_triangles(sdf < 0, tets)
    return place_vertices(nodes, sdf, surface.crossings), surface
