"""The signed distance from a mesh, against closed forms."""

from __future__ import annotations

import numpy as np
import trimesh

from sds3d.meshing.distance import SignedDistance
from sds3d.meshing.mesh import Mesh


def as_mesh(shape: trimesh.Trimesh, colors: np.ndarray | None = None) -> Mesh:
    return Mesh(shape.vertices, shape.faces, np.full((len(shape.vertices), 3), 0.5) if colors is None else colors)


def test_a_ball() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    found, _ = SignedDistance(as_mesh(trimesh.creation.icosphere(4, 0.6)))(points)
    exact = np.linalg.norm(points, axis=1) - 0.6
    assert np.abs(found - exact).max() < 0.02
    assert (np.sign(found) == np.sign(exact))[np.abs(exact) > 0.01].all()


def test_a_box_has_the_right_side_near_its_edges() -> None:
    points = np.random.default_rng(1).uniform(-0.7, 0.7, (2000, 3))
    found, _ = SignedDistance(as_mesh(trimesh.creation.box((1.0, 0.8, 0.6))))(points)
    beyond = np.abs(points) - np.array([0.5, 0.4, 0.3])
    exact = np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0)
    sure = np.abs(exact) > 0.02
    assert (np.sign(found) == np.sign(exact))[sure].mean() > 0.999
    assert np.abs(np.abs(found) - np.abs(exact)).max() < 0.02


def test_colours_are_those_of_the_nearest_surface() -> None:
    shape = trimesh.creation.icosphere(3, 0.5)
    colors = np.clip(shape.vertices + 0.5, 0, 1)
    points = np.random.default_rng(2).normal(size=(100, 3))
    _, found = SignedDistance(as_mesh(shape, colors))(points)
    nearest = 0.5 * points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.abs(found - (nearest + 0.5)).max() < 0.05
