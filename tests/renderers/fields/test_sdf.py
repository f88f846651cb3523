"""Distance fields: the sphere they start from, derivatives, and the two opacity rules against their papers."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.fields.sdf import SdfField, neus_depth, volsdf_density
from sds3d.config.nerf import EncodingConfig, SdfConfig

SMALL = EncodingConfig(levels=2, base_resolution=4, finest_resolution=8)


def _field(**options):
    return SdfField(SdfConfig(encoding=SMALL, **options), torch.Generator().manual_seed(0)).double()


def _points(count=12):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 1.6 - 0.8


def test_it_starts_as_a_grey_sphere_with_its_sharpness():
    field = _field(init_radius=0.4, sharpness=30.0, radius=1.5)
    distance, colours, gradient = field.with_gradient(_points())
    assert torch.allclose(distance, _points().norm(dim=1) - 0.4) and torch.allclose(
        colours, torch.full_like(colours, 0.5)
    )
    assert torch.allclose(gradient, torch.nn.functional.normalize(_points(), dim=1))
    assert field.sharpness.item() == pytest.approx(30.0)
    origin = torch.zeros(1, 3, dtype=torch.float64)
    assert all(torch.isfinite(part).all() for part in field.with_gradient(origin))


def test_gradient_equals_autograd_and_a_loss_on_it_reaches_everything():
    field = _field(radius=1.5)
    draws = torch.Generator().manual_seed(3)
    for parameter in field.network.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=draws, dtype=torch.float64)
    field.encoding.table.data = torch.randn(field.encoding.table.shape, generator=draws, dtype=torch.float64)
    points = _points().requires_grad_(True)
    distance, _, gradient = field.with_gradient(points)
    assert torch.allclose(distance, field.distance(points)) and torch.allclose(distance, field(points)[0])
    assert torch.allclose(gradient, torch.autograd.grad(field.distance(points).sum(), points)[0], atol=1e-9)
    ((field.with_gradient(_points())[2].norm(dim=1) - 1) ** 2).mean().backward()
    for name, parameter in field.named_parameters():
        if name != "log_sharpness" and not name.endswith("linears.1.bias"):
            assert parameter.grad.abs().sum() > 0, name


def test_neus_on_a_plane_equals_the_sigmoid():
    """Crossing a plane head on, the light left at distance f is sigmoid(s f): the defining property of NeuS."""
    sharpness, count = torch.tensor(12.0, dtype=torch.float64), 60
    edges = torch.linspace(1.5, -1.5, count + 1, dtype=torch.float64)
    middle, width = 0.5 * (edges[1:] + edges[:-1]), edges[:-1] - edges[1:]
    depths = neus_depth(middle, torch.full_like(middle, -1.0), width, sharpness)
    light = torch.exp(-depths.cumsum(dim=0))
    assert torch.allclose(light, torch.sigmoid(sharpness * edges[1:]), atol=1e-7)
    alpha = 1 - torch.exp(-depths)
    phi = torch.sigmoid(sharpness * edges)
    assert torch.allclose(alpha, (phi[:-1] - phi[1:]) / phi[:-1], atol=1e-12)


def test_neus_leaving_a_surface_absorbs_nothing_but_learns_while_annealed():
    middle, width = torch.tensor([0.01], requires_grad=True), torch.tensor([0.1])
    away = neus_depth(middle, torch.tensor([1.0]), width, torch.tensor(10.0))
    assert away.item() == 0
    half = torch.tensor([-0.2])
    assert neus_depth(middle, half, width, torch.tensor(10.0), 0.0) > neus_depth(
        middle, half, width, torch.tensor(10.0)
    )


def test_volsdf_equals_its_formula_and_is_continuous():
    beta = 0.05
    sharpness = torch.tensor(1 / beta, dtype=torch.float64)
    for f in (-0.3, -0.01, 0.01, 0.3):
        psi = 0.5 * math.exp(-f / beta) if f > 0 else 1 - 0.5 * math.exp(f / beta)
        found = volsdf_density(torch.tensor([f], dtype=torch.float64), sharpness)
        assert found.item() == pytest.approx(psi / beta, rel=1e-9)
    both = volsdf_density(torch.tensor([-1e-12, 0.0, 1e-12], dtype=torch.float64), sharpness)
    assert torch.allclose(both, torch.full_like(both, 0.5 / beta))


def test_gradients():
    f = torch.tensor([-0.1, 0.02, 0.3], dtype=torch.float64, requires_grad=True)
    cosine = torch.tensor([-0.9, -0.3, 0.4], dtype=torch.float64, requires_grad=True)
    width, s = torch.full_like(f, 0.05).detach(), torch.tensor(15.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f, c, s: neus_depth(f, c, width, s, 0.3), (f, cosine, s))
    assert torch.autograd.gradcheck(volsdf_density, (f, s))
