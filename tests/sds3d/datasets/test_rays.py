"""The tree finds what brute force finds, and a sphere where it is."""

from __future__ import annotations

import numpy as np
import pytest

from sds3d.datasets.rays import LEAF, build, trace


def brute_force(corners: np.ndarray, origins: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (face or -1, distance) by solving the 3x3 system of every ray and triangle."""
    edges = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)  # [F, 3, 2]
    face, distance = np.full(len(origins), -1), np.full(len(origins), np.inf)
    for ray, (origin, way) in enumerate(zip(origins, directions, strict=True)):
        system = np.concatenate([edges, np.broadcast_to(-way[None, :, None], (len(corners), 3, 1))], axis=2)
        u, v, t = np.linalg.solve(system, (origin - corners[:, 0])[..., None])[..., 0].T
        hit = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
        if hit.any():
            face[ray] = np.flatnonzero(hit)[t[hit].argmin()]
            distance[ray] = t[hit].min()
    return face, distance


@pytest.mark.parametrize("count", [1, LEAF, LEAF + 1, 200])
def test_agrees_with_brute_force(count: int) -> None:
    rng = np.random.default_rng(count)
    corners = rng.normal(size=(count, 1, 3)) + 0.4 * rng.normal(size=(count, 3, 3))
    origins, directions = 3.0 * rng.normal(size=(300, 3)), rng.normal(size=(300, 3))
    directions[:30, 0] = 0.0  # rays along a plane of the axes
    face, distance, weights = trace(build(corners), origins, directions)
    expected, nearest = brute_force(corners, origins, directions)
    assert (face == expected).all() and (face >= 0).any() == (count > 4 or (expected >= 0).any())
    np.testing.assert_allclose(distance, nearest, rtol=1e-9)
    hit = face >= 0
    u, v = weights[hit].T
    points = (
        (1 - u - v)[:, None] * corners[face[hit], 0]
        + u[:, None] * corners[face[hit], 1]
        + v[:, None] * corners[face[hit], 2]
    )
    np.testing.assert_allclose(points, origins[hit] + distance[hit, None] * directions[hit], atol=1e-8)


def test_rays_that_start_on_a_triangle_leave_it() -> None:
    corners = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
    face, distance, _ = trace(build(corners), np.array([[0.2, 0.2, 0.0]]), np.array([[0.0, 0.0, 1.0]]))
    assert face[0] == -1 and np.isinf(distance[0])
