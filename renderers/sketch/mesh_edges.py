"""The lines one would draw of a mesh: sharp edges, borders and outlines, as polylines."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.errors import AssetError
from sds3d.meshing.mesh import Mesh

SHARP_DEG = 50.0
"""Angle between faces from which their edge is a line. Source: ViewCraft3D."""
TURN_COSINE = 0.6
"""A line ends where it turns by more than this."""
OUTLINE_VIEWS_DEG = (0.0, 90.0, 180.0, 270.0)


def polylines(mesh: Mesh, count: int) -> list[Tensor]:
    """Return `count` polylines [P, 3] along the sharp edges, borders and outlines of a mesh, longest first.

    Outlines are those seen horizontally from four sides. With too few lines the longest are cut in two until there are
    enough. Deterministic. Raises: AssetError if the mesh has no such line.
    """
    places: NDArray[np.float64]
    places, index = np.unique(np.round(mesh.vertices.astype(np.float64), 5), axis=0, return_inverse=True)
    faces = index.reshape(-1)[mesh.faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    pieces = chains(places, lines(places, faces)) if len(faces) else []
    if not pieces:
        raise AssetError("The mesh has 0 sharp edges and outlines, at least 1 is needed to draw. Use init 'sphere'.")
    pieces.sort(key=_length, reverse=True)
    while len(pieces) < count:
        pieces = [*_halves(pieces[0]), *pieces[1:]]
        pieces.sort(key=_length, reverse=True)
    return [torch.from_numpy(piece).float() for piece in pieces[:count]]


def lines(places: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the edges [E, 2] that are lines."""
    normals = np.cross(places[faces[:, 1]] - places[faces[:, 0]], places[faces[:, 2]] - places[faces[:, 0]])
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
    corners = np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1).reshape(-1, 2)
    edges, inverse, uses = np.unique(np.sort(corners, axis=1), axis=0, return_inverse=True, return_counts=True)
    owner = np.repeat(np.arange(len(faces)), 3)[np.argsort(inverse.reshape(-1), kind="stable")]
    first = np.concatenate([[0], np.cumsum(uses)[:-1]])
    left, right = normals[owner[first]], normals[owner[first + uses - 1]]
    is_line = (uses == 1) | ((left * right).sum(axis=1) < np.cos(np.deg2rad(SHARP_DEG)))
    angles = np.deg2rad(OUTLINE_VIEWS_DEG)
    for towards in np.stack([np.cos(angles), np.sin(angles), 0.0 * angles], axis=1):
        is_line |= (left @ towards > 1e-9) != (right @ towards > 1e-9)
    return edges[is_line]


def chains(places: NDArray[np.float64], edges: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """Return polylines [P, 3] that use every edge once and go on where the direction does."""
    beside: dict[int, list[int]] = defaultdict(list)
    for a, b in edges.tolist():
        beside[a].append(b)
        beside[b].append(a)
    free = {(min(a, b), max(a, b)) for a, b in edges.tolist()}
    found = []
    for a, b in edges.tolist():
        if (min(a, b), max(a, b)) not in free:
            continue
        free.discard((min(a, b), max(a, b)))
        forward = _walk(places, a, b, beside, free)
        backward = _walk(places, b, a, beside, free)
        found.append(places[[*backward[::-1], a, b, *forward]])
    return found


def _walk(
    places: NDArray[np.float64], before: int, here: int, beside: dict[int, list[int]], free: set[tuple[int, int]]
) -> list[int]:
    """Return the vertices after `here`, the straightest free edge each time; they are no longer free."""
    way: list[int] = []
    while True:
        heading = places[here] - places[before]
        best, best_cosine = -1, TURN_COSINE
        for other in beside[here]:
            if (min(here, other), max(here, other)) in free:
                step = places[other] - places[here]
                cosine = float(heading @ step / max(np.linalg.norm(heading) * np.linalg.norm(step), 1e-12))
                if cosine > best_cosine:
                    best, best_cosine = other, cosine
        if best < 0:
            return way
        free.discard((min(here, best), max(here, best)))
        way.append(best)
        before, here = here, best


def _length(line: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(np.diff(line, axis=0), axis=1).sum())


def _halves(line: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return both halves of a polyline by length."""
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    half = 0.5 * at[-1]
    piece = int(np.clip(np.searchsorted(at, half) - 1, 0, len(line) - 2))
    share = (half - at[piece]) / max(at[piece + 1] - at[piece], 1e-12)
    middle = (1.0 - share) * line[piece] + share * line[piece + 1]
    return np.vstack([line[: piece + 1], middle]), np.vstack([middle, line[piece + 1 :]])
