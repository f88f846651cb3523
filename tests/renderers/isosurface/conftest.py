"""Shapes with known surfaces, and what a mesh must be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

RADIUS = 0.6


@dataclass
class Report:
    """What `report` measures of a mesh."""

    is_closed: bool
    is_manifold: bool
    euler: int
    volume: float
    area: float


def measure(vertices, faces) -> Report:
    """Measure a mesh by its definitions: directed edges, fans around vertices, signed volume."""
    points, faces = vertices.detach().double().numpy(), faces.numpy()
    directed = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward, counts = np.unique(directed, axis=0, return_counts=True)
    backward = np.unique(directed[:, ::-1], axis=0)
    is_closed = bool((counts == 1).all() and np.array_equal(forward, backward))
    a, b, c = (points[faces[:, k]] for k in range(3))
    normal = np.cross(b - a, c - a)
    used = len(np.unique(faces))
    return Report(
        is_closed=is_closed,
        is_manifold=is_closed and _fans(faces) == used,
        euler=used - len(forward) // 2 + len(faces),
        volume=float((a * np.cross(b, c)).sum() / 6),
        area=float(np.linalg.norm(normal, axis=1).sum() / 2),
    )


def _fans(faces) -> int:
    """Count the fans of triangles around all vertices: as many as vertices if each has one (no surfaces that touch)."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    corner = np.arange(faces.size).reshape(faces.shape)
    ends = {}
    for face, ids in zip(faces.tolist(), corner.tolist(), strict=True):
        for k in range(3):
            ends[face[k], face[(k + 1) % 3]] = (ids[k], ids[(k + 1) % 3])
    links = [pair for (a, b), one in ends.items() if (b, a) in ends for pair in zip(one, ends[b, a][::-1], strict=True)]
    row, column = np.array(links).T
    graph = coo_matrix((np.ones(len(row)), (row, column)), (faces.size, faces.size))
    return connected_components(graph, directed=False)[0]


@pytest.fixture
def measured():
    return measure


@pytest.fixture
def sphere():
    """Signed distance to a sphere, a little off the grid's centre; and its area and volume."""

    def distance(points):
        return torch.linalg.vector_norm(points - points.new_tensor([0.013, -0.021, 0.017]), dim=-1) - RADIUS

    distance.area, distance.volume = 4 * math.pi * RADIUS**2, 4 / 3 * math.pi * RADIUS**3
    return distance
