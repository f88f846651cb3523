"""The material: normalisation, reciprocity, energy, known values, and the samplers that go with it."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.errors import ConfigError
from sds3d.shading import brdf, energy, sampling
from sds3d.shading.brdf import Material

UP = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)


def directions(count, generator, lowest=-1.0):
    found = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)
    return torch.cat([found[:, :2], found[:, 2:].clamp_min(lowest)], dim=1) if lowest > -1 else found


def material(count=1, roughness=0.5, metallic=0.0, colour=1.0):
    shape = (count, 1)
    return Material(
        torch.full((count, 3), colour, dtype=torch.float64),
        torch.full(shape, roughness, dtype=torch.float64),
        torch.full(shape, metallic, dtype=torch.float64),
    )


@pytest.mark.parametrize("alpha", [0.05, 0.25, 1.0])
def test_the_facets_together_cover_the_ground_once(alpha):
    # In s = sin^2 the projected solid angle is pi ds: the integral of D cos is a smooth one on [0, 1]; substituting
    # s = x^4 gives the peak at 0 room.
    x = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    n_dot_h = (1 - x**4).sqrt()
    total = (brdf.distribution(n_dot_h, torch.tensor(alpha)) * math.pi * 4 * x**3).mean()
    assert float(total) == pytest.approx(1.0, abs=1e-3)


def test_visibility_is_masking_times_shadowing_when_one_of_them_is_straight():
    # With N.L = 1 nothing is shadowed: G = G1(V), so Vis = G1(V) / (4 N.V).
    n_dot_v, alpha = torch.linspace(0.05, 1, 50, dtype=torch.float64), torch.tensor(0.3, dtype=torch.float64)
    expected = brdf.masking(n_dot_v, alpha) / (4 * n_dot_v)
    assert torch.allclose(brdf.visibility(torch.ones_like(n_dot_v), n_dot_v, alpha), expected, rtol=1e-9)


@pytest.mark.parametrize("mode", ["simple", "coupled"])
def test_light_may_go_either_way_and_is_never_negative(mode):
    generator = torch.Generator().manual_seed(0)
    view, light = (directions(1000, generator, 0.02) for _ in range(2))
    view, light = (torch.nn.functional.normalize(value, dim=1) for value in (view, light))
    values = Material(*(torch.rand(1000, k, generator=generator, dtype=torch.float64) for k in (3, 1, 1)))
    there = brdf.evaluate(values, UP, view, light, mode)
    assert torch.allclose(there, brdf.evaluate(values, UP, light, view, mode), rtol=1e-6, atol=1e-9)
    assert float(there.min()) >= 0


def test_known_values_straight_above():
    # V = L = N: w = 0, D = 1 / (pi a^2), Vis = 1/4; dielectric 0.04, metal c.
    above = UP[None]
    glass = brdf.evaluate(material(roughness=0.6, colour=0.5), above, above, above, "coupled")
    alpha = 0.36
    assert float(glass[0, 0]) == pytest.approx(0.96 * 0.5 / math.pi + 0.04 / (4 * math.pi * alpha**2), rel=1e-9)
    metal = brdf.evaluate(material(roughness=0.6, metallic=1.0, colour=0.5), above, above, above)
    assert float(metal[0, 0]) == pytest.approx(0.5 / (4 * math.pi * alpha**2), rel=1e-9)
    plain = brdf.evaluate(material(roughness=0.6, colour=0.5), above, above, above, "simple")
    assert float((plain - glass)[0, 0]) == pytest.approx(0.04 * 0.5 / math.pi, rel=1e-9)


def test_nothing_is_seen_from_below():
    below = -UP[None]
    for view, light in ((UP[None], below), (below, UP[None])):
        assert float(brdf.evaluate(material(metallic=0.5), UP, view, light).abs().max()) == 0.0


def test_an_unknown_mode_names_the_nearest():
    with pytest.raises(ConfigError, match=r"'couple', which is unknown. Use 'coupled'"):
        brdf.evaluate(material(), UP, UP, UP, "couple")


def test_hammersley_fills_every_half():
    points = sampling.hammersley(64)
    assert bool(((points >= 0) & (points < 1)).all())
    counts = torch.histogramdd(points, bins=[8, 8], range=[0.0, 1.0, 0.0, 1.0]).hist
    assert bool((counts == 1).all())


def test_frames_are_orthonormal_and_right_handed_also_at_the_poles():
    normal = torch.cat([directions(200, torch.Generator().manual_seed(1)), torch.stack([UP, -UP])])
    tangent, bitangent = sampling.frame(normal)
    axes = torch.stack([tangent, bitangent, normal], dim=-1)
    assert torch.allclose(axes.mT @ axes, torch.eye(3, dtype=torch.float64).expand(202, 3, 3), atol=1e-9)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(202, dtype=torch.float64), atol=1e-9)


def test_cosine_directions_have_the_moments_of_the_cosine():
    drawn = sampling.cosine_directions(sampling.hammersley(4096, dtype=torch.float64))
    assert float(drawn[:, 2].mean()) == pytest.approx(2 / 3, abs=1e-3)
    assert float(drawn[:, 2].square().mean()) == pytest.approx(0.5, abs=1e-3)
    assert drawn.norm(dim=1).sub(1).abs().max() < 1e-9


@pytest.mark.parametrize(("roughness", "cosine"), [(0.3, 0.9), (0.5, 0.3), (0.9, 0.6)])
def test_half_vectors_are_drawn_as_they_are_seen(roughness, cosine):
    """Chi square of 40 000 random draws against D G1 max(V.H, 0) / N.V in 6 x 8 cells of (cos^2, angle)."""
    alpha = torch.tensor([roughness**2], dtype=torch.float64)
    view = torch.tensor([math.sqrt(1 - cosine**2), 0.0, cosine], dtype=torch.float64)
    random = torch.rand(40_000, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    half = sampling.visible_half_vectors(view, alpha, random)
    # Cells are even in x = sqrt(1 - u) with GGX's own inverse cos^2 = (1 - u) / (1 + (a^2 - 1) u): the peak is resolved,
    # and the density stays finite at the horizon.
    square, a2 = half[:, 2] ** 2, float(alpha) ** 2
    u = (1 - square) / (1 + (a2 - 1) * square)
    around = torch.atan2(half[:, 1], half[:, 0]) / (2 * math.pi) + 0.5
    seen = torch.histogramdd(
        torch.stack([(1 - u).clamp_min(0).sqrt(), around], 1), bins=[6, 8], range=[0.0, 1.0, 0.0, 1.0]
    ).hist
    fine_x, fine_phi = torch.meshgrid(
        (torch.arange(600, dtype=torch.float64) + 0.5) / 600, (torch.arange(160, dtype=torch.float64) + 0.5) / 160,
        indexing="ij",
    )  # fmt: skip
    fine_u = 1 - fine_x**2
    c2 = (1 - fine_u) / (1 + (a2 - 1) * fine_u)
    angle, flat = (fine_phi - 0.5) * 2 * math.pi, (1 - c2).sqrt()
    direction = torch.stack([flat * angle.cos(), flat * angle.sin(), c2.sqrt()], -1)
    # D cos d omega = du dphi / 2 pi and du = 2 x dx, so the density in (x, phi / 2 pi) is 2 x G1 max(V.H, 0) / (N.V N.H).
    density = 2 * fine_x * (direction @ view).clamp_min(0) * float(brdf.masking(view[2:], alpha)) / (cosine * c2.sqrt())
    expected = density.view(6, 100, 8, 20).sum(dim=(1, 3)) / (600 * 160)
    assert float(expected.sum()) == pytest.approx(1.0, abs=1e-3)
    expected = expected / expected.sum() * len(random)
    kept = expected > 5
    statistic = float(((seen - expected) ** 2 / expected)[kept].sum())
    freedom = int(kept.sum()) - 1
    assert statistic < freedom + 4 * math.sqrt(2 * freedom)


def test_the_mean_weight_of_visible_normals_is_the_energy():
    # Against brute force: the integral of D Vis cos over a fine grid of light directions, F = 1.
    n_dot_v, roughness = 0.5, 0.7
    grid = torch.linspace(0, 1, 801, dtype=torch.float64)
    z = (grid[1:] + grid[:-1]) / 2
    phi = (torch.arange(400, dtype=torch.float64) + 0.5) * (2 * math.pi / 400)
    z, phi = torch.meshgrid(z, phi, indexing="ij")
    light = torch.stack([(1 - z * z).sqrt() * phi.cos(), (1 - z * z).sqrt() * phi.sin(), z], -1)
    view = torch.tensor([math.sqrt(1 - n_dot_v**2), 0.0, n_dot_v], dtype=torch.float64)
    white = Material(*(torch.ones(k, dtype=torch.float64) * v for k, v in ((3, 1.0), (1, roughness), (1, 1.0))))
    total = (brdf.evaluate(white, UP, view, light)[..., 0] * z).mean() * 2 * math.pi
    a, b = energy.integrate_energy(*(torch.tensor([value], dtype=torch.float64) for value in (n_dot_v, roughness)))
    assert float(a + b) == pytest.approx(float(total), abs=2e-3)
