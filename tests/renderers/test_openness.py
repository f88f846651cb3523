"""Ambient occlusion from pictures of the depth: closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.openness import Openness, spiral
from renderers.surface_conversion import sphere_mesh


def plates(gap: float, side: float = 0.8) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two squares, one above the other."""
    corner = torch.tensor([[-side, -side], [side, -side], [side, side], [-side, side]])
    layers = [torch.cat([corner, torch.full((4, 1), height)], dim=1) for height in (0.0, gap)]
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    return torch.cat(layers), torch.cat([faces, faces + 4])


def test_directions_are_even():
    ways = spiral(96)
    assert torch.allclose(ways.norm(dim=1), torch.ones(96)) and float(ways.mean(dim=0).norm()) < 0.01


def test_a_ball_sees_all_of_its_sky():
    mesh = sphere_mesh(0.7, 24)
    points = torch.from_numpy(mesh.vertices)
    seen = Openness(points, torch.from_numpy(mesh.faces)).at(points, torch.nn.functional.normalize(points, dim=1))
    assert float(seen.mean()) > 0.99 and float(seen.min()) > 0.9


def test_a_plate_hides_the_sky_of_the_plate_below_it():
    """A square of half-side a at height h fills, for a point below its middle, the share F of a cosine-weighted sky:
    F = 4 / (2 pi) * 2 * (a / sqrt(a^2 + h^2)) atan(a / sqrt(a^2 + h^2)) for its four quarters."""
    side, gap = 0.8, 0.6
    vertices, faces = plates(gap, side)
    k = side / math.hypot(side, gap)
    filled = 4.0 / (2.0 * math.pi) * 2.0 * k * math.atan(k)
    up, middle = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.0, 0.0, 0.0]])
    openness = Openness(vertices, faces)
    assert float(openness.at(middle, up)) == pytest.approx(1.0 - filled, abs=0.05)
    assert float(openness.at(middle, -up)) == pytest.approx(1.0, abs=0.01)
    assert float(openness.at(middle + torch.tensor([[0.0, 0.0, gap]]), up)) == pytest.approx(1.0, abs=0.01)


def test_no_points_no_answers():
    vertices, faces = plates(0.5)
    assert Openness(vertices, faces).at(torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 1)
