"""Spherical harmonics: against gsplat's torch version, orthonormality, and the degree-0 colour pair."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians import sh
from sds3d.errors import ConfigError, ShapeError


def _directions(count: int) -> torch.Tensor:
    """Return a Fibonacci lattice on the sphere, float64."""
    i = torch.arange(count, dtype=torch.float64) + 0.5
    z, azimuth = 1 - 2 * i / count, i * math.pi * (3 - math.sqrt(5))
    r = (1 - z * z).sqrt()
    return torch.stack([r * azimuth.cos(), r * azimuth.sin(), z], dim=1)


def test_basis_is_orthonormal():
    values = sh.basis(_directions(20_000), 3)
    gram = 4 * math.pi * values.T @ values / len(values)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=1e-4)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_evaluate_agrees_with_gsplat(degree):
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    generator = torch.Generator().manual_seed(degree)
    coefficients = 0.2 * torch.randn(7, 16, 3, generator=generator)
    means = torch.randn(7, 3, generator=generator)
    viewmats = torch.eye(4).repeat(2, 1, 1)
    viewmats[:, :3, 3] = torch.randn(2, 3, generator=generator)
    directions = means - torch.linalg.inv(viewmats)[:, None, :3, 3]
    expected = torch_impl._spherical_harmonics(degree, directions, coefficients.expand(2, -1, -1, -1)) + 0.5
    found = sh.evaluate(coefficients, means, viewmats, degree).expand(2, -1, -1)
    assert torch.allclose(found, expected.clamp_min(0.0), atol=1e-6)


def test_unused_coefficients_get_no_gradient_and_means_do():
    coefficients = torch.randn(5, 16, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    means = torch.randn(5, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    sh.evaluate(coefficients, means, torch.eye(4)[None], 1).sum().backward()
    assert coefficients.grad[:, 4:].abs().max() == 0 and coefficients.grad[:, :4].abs().min() >= 0
    assert means.grad.abs().sum() > 0


def test_rgb_round_trip_and_errors():
    rgb = torch.tensor([[0.0, 0.25, 1.0]])
    assert torch.allclose(sh.rgb_from_sh0(sh.sh0_from_rgb(rgb)), rgb, atol=1e-6)
    with pytest.raises(ConfigError, match=r"sh_degree is 4, but 0 to 3 is supported"):
        sh.basis(torch.eye(3), 4)
    with pytest.raises(ShapeError, match=r"colors has shape \[2, 3, 3\], but \[..., K >= 4, 3\] for sh_degree=1"):
        sh.evaluate(torch.zeros(2, 3, 3), torch.zeros(2, 3), torch.eye(4)[None], 1)
