"""How a surface passes through a cube: every case of eight signs, worked out instead of typed.

Corner c of a cube is at (c & 1, c >> 1 & 1, c >> 2 & 1). Bit c of a case says that corner c is inside. Edges: four along
x, four along y, four along z; face 2 a + s is the one at right angles to axis a on side s (0: low, 1: high).

Sources: Nielson, "Dual Marching Cubes", 2004, for one vertex a patch; Wenger, "Isosurfaces", 2013, chapter 5, and Shen et
al., "FlexiCubes", 2023, for why two neighbours may have to change their minds about the face between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def _edges() -> tuple[tuple[int, int], ...]:
    return tuple((c, c | 1 << axis) for axis in range(3) for c in range(8) if not c >> axis & 1)


EDGES = _edges()
"""The twelve edges as (lower corner, higher corner); edge 4 a + k runs along axis a."""


@cache
def rings() -> tuple[tuple[int, ...], ...]:
    """Return the four corners of each face, going round."""
    faces = []
    for axis in range(3):
        one, other = 1 << (axis + 1) % 3, 1 << (axis + 2) % 3
        for side in (0, 1):
            faces.append(tuple((side << axis) | step for step in (0, one, one | other, other)))
    return tuple(faces)


@dataclass(frozen=True)
class CubeTables:
    """What `patches` finds for all cases.

    Args:
        patch: [256, 2, 12] int64, the patch each edge belongs to, -1 if the surface does not cross it. The second index
            is 1 where the cube has changed its mind about its doubtful face.
        count: [256, 2] int64, patches in the cube (0 to 4).
        doubtful: [256] int64, the face on which one patch would meet itself twice, or -1.
    """

    patch: Tensor
    count: Tensor
    doubtful: Tensor


def patches(case: int, joined: int = -1) -> tuple[NDArray[np.int64], int]:
    """Return (patch of each edge [12], -1 where none; doubtful face or -1) of one case.

    On a face whose inside corners are diagonal to each other the surface keeps them apart, except on the face `joined`,
    where it keeps the outside corners apart. As both cubes at a face do the same, the pieces fit.
    """
    inside = [bool(case >> c & 1) for c in range(8)]
    group = {e: e for e, (a, b) in enumerate(EDGES) if inside[a] != inside[b]}
    pairs = {face: list(_segments(face, inside, face == joined)) for face in range(6)}
    for face in range(6):
        for one, other in pairs[face]:
            old, new = group[one], group[other]
            group = {e: new if g == old else g for e, g in group.items()}
    numbers = {g: k for k, g in enumerate(dict.fromkeys(group.values()))}
    patch = np.array([numbers[group[e]] if e in group else -1 for e in range(12)])
    twice = [f for f in range(6) if len(pairs[f]) == 2 and group[pairs[f][0][0]] == group[pairs[f][1][0]]]
    assert len(twice) <= 1, "a cube has at most one face like that"
    return patch, twice[0] if twice else -1


def _segments(face: int, inside: list[bool], join: bool) -> list[tuple[int, int]]:
    """Return the pairs of edges that the surface connects on a face."""
    ring = rings()[face]
    edge = [EDGES.index((min(a, b), max(a, b))) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)]
    crossed = [e for e in edge if inside[EDGES[e][0]] != inside[EDGES[e][1]]]
    if len(crossed) < 4:
        return [(crossed[0], crossed[1])] if crossed else []
    return [(edge[k - 1], edge[k]) for k in range(4) if inside[ring[k]] != join]


@cache
def cube_tables() -> CubeTables:
    """Return the tables of all 256 cases (about 20 ms, once)."""
    found = [patches(case) for case in range(256)]
    doubtful = np.array([face for _, face in found])
    changed = [patches(case, int(doubtful[case]))[0] for case in range(256)]
    patch = np.stack([np.stack([p for p, _ in found]), np.stack(changed)], axis=1)
    return CubeTables(*(torch.from_numpy(a) for a in (patch, patch.max(axis=2) + 1, doubtful)))
