"""Loss terms by hand."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.volume import regularisers


def test_values():
    alpha = torch.tensor([0.0, 0.5, 1.0])
    assert regularisers.opacity(alpha).item() == pytest.approx((0.1 + 0.26**0.5 + 1.01**0.5) / 3, rel=1e-6)
    edge = -(1e-3 * math.log(1e-3) + 0.999 * math.log(0.999))
    assert regularisers.entropy(alpha).item() == pytest.approx((math.log(2) + 2 * edge) / 3, rel=1e-4)
    assert regularisers.z_variance(torch.tensor([9.0, 9.0, 2.0]), alpha).item() == 2.0
    assert regularisers.z_variance(torch.ones(2), torch.zeros(2)).item() == 0.0
    normals, directions = torch.eye(3), torch.tensor([[1.0, 0, 0], [0, -1.0, 0], [1.0, 0, 0]])
    assert regularisers.facing_away(normals, directions).tolist() == [1.0, 0.0, 0.0]
    lengths = torch.tensor([[3.0, 0, 4.0], [0, 1.0, 0]])
    assert torch.allclose(regularisers.eikonal(lengths), torch.tensor([16.0, 0.0]))
    assert regularisers.mean_of(torch.tensor([3.0, 5.0]), torch.tensor([1.0, 3.0])).item() == 2.0


def test_gradients_are_finite_at_the_corners():
    alpha = torch.tensor([0.0, 1.0], requires_grad=True)
    (regularisers.entropy(alpha) + regularisers.opacity(alpha)).backward()
    gradient = torch.zeros(2, 3, requires_grad=True)
    regularisers.eikonal(gradient).sum().backward()
    assert torch.isfinite(alpha.grad).all() and torch.isfinite(gradient.grad).all()
