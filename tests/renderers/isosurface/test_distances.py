"""Signed distances from meshes and from fields."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from renderers.isosurface.distances import (
    automatic_iso,
    distances_of_field,
    distances_to_mesh,
    sample_faces,
    winding_numbers,
)
from renderers.isosurface.flexicubes import cube_grid
from renderers.isosurface.tetrahedra import body_centred_grid
from sds3d.errors import ConfigError

CUBE = torch.tensor([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
QUADS = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
FACES = torch.tensor([t for a, b, c, d in QUADS for t in ((a, b, c), (a, c, d))])


def cube_distance(points):
    q = points.abs() - 0.5
    return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)


def test_the_cube_of_these_tests_faces_outwards():
    a, b, c = CUBE[FACES].unbind(dim=1)
    assert float((a * torch.linalg.cross(b, c)).sum() / 6) == pytest.approx(1.0)


def test_winding_numbers_of_a_cube_and_of_a_cube_within_a_cube():
    draws = torch.Generator().manual_seed(0)
    points = torch.rand(300, 3, generator=draws) * 2 - 1
    expected = (cube_distance(points) < 0).float()
    assert torch.allclose(winding_numbers(points, CUBE, FACES), expected, atol=1e-4)
    twice = winding_numbers(points, torch.cat([CUBE, 0.5 * CUBE]), torch.cat([FACES, FACES + 8]))
    assert torch.allclose(twice, expected + (cube_distance(2 * points) < 0).float(), atol=1e-4)


@pytest.mark.parametrize("kind", ["cubes", "tets"])
def test_distances_to_a_mesh(kind):
    n = 9
    grid = cube_grid(n) if kind == "cubes" else body_centred_grid(n)
    blocks = (n + 1,) if kind == "cubes" else (n + 1, n)
    found = distances_to_mesh(grid.nodes, blocks, grid.cell, CUBE, FACES)
    assert float((found - cube_distance(grid.nodes)).abs().max()) < 0.008


def test_a_hollow_mesh_is_outside_in_its_hollow():
    grid = cube_grid(12)
    vertices, faces = torch.cat([CUBE * 1.5, CUBE * 0.8]), torch.cat([FACES, FACES.flip(1) + 8])
    found = distances_to_mesh(grid.nodes, (13,), grid.cell, vertices, faces)
    radius = grid.nodes.abs().amax(dim=1)
    assert bool((found[radius < 0.35] > 0).all() and (found[(radius > 0.45) & (radius < 0.7)] < 0).all())


def test_samples_are_uniform():
    draws = torch.Generator().manual_seed(3)
    points, face, weight = sample_faces(CUBE, FACES, 24_000, draws)
    counts = torch.bincount(face, minlength=12).double()
    assert float(((counts - 2000) ** 2 / 2000).sum()) < 31.3  # chi squared, 11 degrees, 0.1 %
    assert torch.allclose((weight[..., None] * CUBE[FACES[face]]).sum(dim=1), points)
    assert torch.allclose(weight.mean(dim=0), torch.full((3,), 1 / 3), atol=0.01)
    assert float(weight.square().mean()) == pytest.approx(1 / 6, abs=0.004)  # of a uniform triangle


def ball(points):
    return points.norm(dim=1) - 0.5


def test_distances_of_a_signed_field_whatever_its_scale():
    grid = cube_grid(20)
    for scale in (0.01, 1.0, 50.0):
        found = distances_of_field(grid.nodes, grid.cell, lambda p, s=scale: s * ball(p), "sdf", None)
        near = ball(grid.nodes).abs() < 1.5 * grid.cell
        assert float((found - ball(grid.nodes))[near].abs().max()) < 0.05 * grid.cell
        assert float(found.abs().max()) <= 2.0 * grid.cell + 1e-6


def test_distances_of_a_density():
    grid = cube_grid(20)

    def density(points):
        return 60.0 * torch.sigmoid(-ball(points) / 0.03)

    for iso, radius in ((30.0, 0.5), (60.0 / (1 + math.e), 0.53)):
        found = distances_of_field(grid.nodes, grid.cell, density, "density", iso)
        near = (ball(grid.nodes) - (radius - 0.5)).abs() < 0.5 * grid.cell
        wanted = (grid.nodes.norm(dim=1) - radius)[near]
        assert float((found[near] - wanted).abs().max()) < 0.35 * grid.cell
        assert bool((found[near].sign() == wanted.sign()).all())


def test_the_iso_is_chosen_between_empty_and_solid():
    draws = torch.Generator().manual_seed(0)
    density = torch.cat([torch.rand(900, generator=draws) * 0.5, 80 + 20 * torch.rand(100, generator=draws)])
    assert 0.5 < automatic_iso(density) < 80
    density[-1] = 1e6
    assert 0.5 < automatic_iso(density) < 80


def test_errors():
    grid = cube_grid(4)
    with pytest.raises(ConfigError, match="kind 'colour', which is unknown"):
        distances_of_field(grid.nodes, grid.cell, ball, "colour", None)
    with pytest.raises(ConfigError, match="no surface at iso 100: its values are between 1 and 1"):
        distances_of_field(grid.nodes, grid.cell, lambda p: torch.ones(len(p)), "density", 100.0)
    with pytest.raises(ConfigError, match="not finite at 125 of 125 nodes"):
        distances_of_field(grid.nodes, grid.cell, lambda p: torch.full((len(p),), np.nan), "sdf", None)
