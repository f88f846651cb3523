"""M24: an empty sky is open, a wall hides its half of it, and places are asked above the surface."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians.visibility import Visibility, probe
from sds3d.shading import sh

OPEN = 2.0 * math.sqrt(math.pi)


def wall(height: float, half: float = 4.0, count: int = 48) -> tuple[torch.Tensor, ...]:
    """Return opaque flat Gaussians that fill a square in the plane z = height."""
    line = torch.linspace(-half, half, count)
    x, y = torch.meshgrid(line, line, indexing="ij")
    means = torch.stack([x, y, torch.full_like(x, height)], dim=-1).view(-1, 3)
    step = 2.0 * half / (count - 1)
    scales = torch.tensor([step, step, 0.01]).expand(len(means), 3).contiguous()
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(len(means), 4).contiguous()
    return means, quats, scales, torch.full((len(means),), 0.999)


def irradiance(visibility: torch.Tensor, normal: list[float]) -> float:
    """Return irradiance / pi under light 1 from everywhere."""
    even = torch.zeros(9, 1)
    even[0] = OPEN
    return float(sh.irradiance_seen(even, visibility, torch.tensor([normal]))[0, 0])


def test_nothing_hides_nothing() -> None:
    far = [part[:1] for part in wall(-50.0)]
    found = probe(torch.zeros(1, 3), *far[:3], torch.zeros(1), backend="reference")
    assert float(found[0, 0]) == pytest.approx(OPEN, rel=1e-3) and float(found[0, 1:].abs().max()) < 1e-3
    assert irradiance(found, [0.0, 0.0, 1.0]) == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize(("height", "up"), [(-0.4, 1.0), (0.4, -1.0)])
def test_a_wall_hides_its_half_of_the_sky(height: float, up: float) -> None:
    found = probe(torch.zeros(1, 3), *wall(height), backend="reference")
    assert irradiance(found, [0.0, 0.0, up]) == pytest.approx(1.0, abs=0.08)
    assert irradiance(found, [0.0, 0.0, -up]) < 0.15
    assert irradiance(found, [1.0, 0.0, 0.0]) == pytest.approx(0.5, abs=0.1)


def test_a_wall_at_one_side_is_not_mirrored() -> None:
    """Faces of a cube map are pictures seen from inside: a wall at +y must be at +y, whatever the face."""
    means, quats, scales, opacities = wall(0.4)
    turned = means[:, [0, 2, 1]]  # the plane y = 0.4
    found = probe(torch.zeros(1, 3), turned, quats, scales[:, [0, 2, 1]], opacities, backend="reference")
    assert irradiance(found, [0.0, 1.0, 0.0]) < 0.15 and irradiance(found, [0.0, -1.0, 0.0]) > 0.9
    half = means[:, 0] > 0  # a quarter of the sky: x > 0 of the wall above
    found = probe(torch.zeros(1, 3), means[half], quats[half], scales[half], opacities[half], backend="reference")
    toward, away = irradiance(found, [0.7071, 0.0, 0.7071]), irradiance(found, [-0.7071, 0.0, 0.7071])
    assert toward < away - 0.2


def test_grid_is_asked_above_the_surface_and_frozen() -> None:
    grid = Visibility(4, 1.0)
    assert not grid.is_baked
    whole = grid.at(torch.zeros(2, 3), torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3))
    torch.testing.assert_close(whole[:, 0], torch.full((2,), OPEN))
    grid.bake(*wall(-0.1, 2.0, 16), backend="reference")
    above = grid.at(torch.tensor([[0.0, 0.0, -0.1]]), torch.tensor([[0.0, 0.0, 1.0]]))
    below = grid.at(torch.tensor([[0.0, 0.0, -0.1]]), torch.tensor([[0.0, 0.0, -1.0]]))
    assert irradiance(above, [0.0, 0.0, 1.0]) > 0.8 and irradiance(below, [0.0, 0.0, -1.0]) > 0.8
    assert irradiance(above, [0.0, 0.0, -1.0]) < 0.2
    copy = Visibility(4, 1.0)
    copy.load_state_dict(grid.state_dict())
    assert copy.is_baked and torch.equal(copy.coefficients, grid.coefficients)
