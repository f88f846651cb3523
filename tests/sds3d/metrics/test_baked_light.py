"""How much light is in a base colour: painted balls whose answer is known."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.metrics.baked_light import baked_light


def ball(count: int = 4000) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(0)), dim=1)


def light_from_above(normal: torch.Tensor) -> torch.Tensor:
    return (0.6 + 0.4 * normal[:, 2:]).expand(-1, 3)


def test_an_even_colour_holds_no_light():
    normal = ball()
    found = baked_light(torch.tensor([0.5, 0.2, 0.1]).expand_as(normal), normal, light_from_above(normal))
    assert found.stops < 1e-9 and found.correlation == 0.0 and found.share == 0.0


def test_light_that_was_painted_on_is_found_whatever_the_colour():
    """Base colour times 2^(a n_z): the standard deviation of a n_z over the sphere is a / sqrt(3)."""
    normal = ball()
    for colour in ([0.5, 0.2, 0.1], [0.1, 0.3, 0.4]):
        painted = torch.tensor(colour) * torch.exp2(0.8 * normal[:, 2:])
        found = baked_light(painted, normal, light_from_above(normal))
        assert found.stops == pytest.approx(0.8 / 3**0.5, rel=0.03) and found.share == pytest.approx(1.0, abs=1e-6)
        assert found.correlation > 0.95
    assert baked_light(1.0 / painted, normal, light_from_above(normal)).correlation < -0.95


def test_paint_that_does_not_follow_the_normal_is_no_light():
    normal = ball()
    noise = 0.1 + 0.8 * torch.rand(len(normal), 1, generator=torch.Generator().manual_seed(1))
    found = baked_light(noise.expand_as(normal), normal, light_from_above(normal))
    assert found.share < 0.01 and abs(found.correlation) < 0.05


def test_other_shapes_are_refused():
    normal = ball(10)
    with pytest.raises(ShapeError, match="irradiance"):
        baked_light(normal.abs(), normal, torch.ones(10, 1))
