"""Each loss term: its value on a case done by hand, and zero where it should be silent."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians import regularisers


def test_opacity_and_binary():
    alpha = torch.tensor([0.0, 0.5, 1.0, 0.5]).reshape(1, 2, 2, 1)
    assert regularisers.opacity(alpha).item() == 0.5
    assert regularisers.binary(alpha).item() == 0.125


def test_variation_counts_both_directions():
    alpha = torch.tensor([[0.0, 1.0], [0.0, 0.0]]).reshape(1, 2, 2, 1)
    assert regularisers.variation(alpha).item() == pytest.approx(0.5 + 0.5)
    assert regularisers.variation(torch.ones(1, 1, 1, 1)).item() == 0.0


def test_scale_spares_discs_and_punishes_needles_and_giants():
    disc, needle, giant = [0.05, 0.05, 1e-4], [0.05, 0.001, 0.001], [0.3, 0.3, 0.3]
    assert regularisers.scale(torch.tensor([disc]), 0.1, 5.0).item() == 0.0
    assert regularisers.scale(torch.tensor([needle]), 0.1, 5.0).item() == pytest.approx(math.log(50 / 5), rel=1e-5)
    assert regularisers.scale(torch.tensor([giant]), 0.1, 5.0).item() == pytest.approx(2.0, rel=1e-5)


def test_outside_pulls_back_and_only_from_outside():
    means = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    value = regularisers.outside(means)
    value.backward()
    assert value.item() == pytest.approx(4.0 / 3)
    assert means.grad[0, 0] > 0 and (means.grad[1:] == 0).all()


def test_the_means_of_the_mcmc_paper():
    opacities = torch.tensor([0.1, 0.5], requires_grad=True)
    scales = torch.tensor([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], requires_grad=True)
    assert regularisers.opacity_mean(opacities).item() == pytest.approx(0.3)
    assert regularisers.scale_mean(scales).item() == pytest.approx(0.35)
    (regularisers.opacity_mean(opacities) + regularisers.scale_mean(scales)).backward()
    assert torch.allclose(opacities.grad, torch.full((2,), 0.5))
    assert torch.allclose(scales.grad, torch.full((2, 3), 1 / 6))
