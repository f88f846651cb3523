"""Colour spaces: round trips, finite gradients, monotone curves."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ConfigError
from sds3d.shading import colour


def test_srgb_there_and_back_is_nothing():
    values = torch.linspace(0, 1, 4001, dtype=torch.float64)
    assert torch.allclose(colour.linear_from_srgb(colour.srgb_from_linear(values)), values, atol=1e-6)
    assert torch.allclose(colour.srgb_from_linear(colour.linear_from_srgb(values)), values, atol=1e-6)


def test_known_srgb_values():
    # Middle grey of 8 bits and the ends, IEC 61966-2-1.
    linear = colour.linear_from_srgb(torch.tensor([0.0, 128 / 255, 1.0]))
    assert linear.tolist() == pytest.approx([0.0, 0.21586, 1.0], abs=1e-5)


@pytest.mark.parametrize("transform", colour.VIEW_TRANSFORMS)
def test_gradients_are_finite_at_and_below_zero(transform):
    values = torch.tensor([-0.5, 0.0, 1e-9, 0.003, 0.5], requires_grad=True)
    colour.to_display(values, transform).sum().backward()
    assert bool(torch.isfinite(values.grad).all()) and float(values.grad[3]) > 0


def test_aces_grows_and_stays_below_one():
    values = colour.aces(torch.linspace(0, 8, 2000, dtype=torch.float64))
    assert bool((values.diff() >= 0).all()) and float(values[0]) == 0.0 and float(values.max()) <= 1.0
    # 0.18 (2.51 0.18 + 0.03) / (0.18 (2.43 0.18 + 0.59) + 0.14), by hand.
    assert float(colour.aces(torch.tensor(0.18))) == pytest.approx(0.0867240 / 0.3249320, rel=1e-5)


def test_pictures_are_clipped_only_where_they_are_shown():
    light = torch.tensor([0.5, 2.0])
    assert colour.to_display(light, "none").tolist() == [0.5, 2.0]
    assert float(colour.to_display(light, "srgb")[1]) == pytest.approx(1.0, abs=1e-6)
    assert float(colour.to_display(light, "aces_srgb").max()) <= 1.0


def test_an_unknown_transform_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'filmic', which is unknown. Use 'aces_srgb', 'none' or 'srgb'"):
        colour.to_display(torch.zeros(3), "filmic")
