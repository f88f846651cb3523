"""Shading: the white furnace, Lambert, the split sum against sampling, gradients, compositing."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.errors import ConfigError, ShapeError
from sds3d.shading import brdf, deferred, energy, lights, montecarlo
from sds3d.shading.brdf import Material
from sds3d.shading.deferred import ShadeSettings, shade_points
from sds3d.shading.directions import cube_directions
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.sh import ShLight

FURNACE = EnvironmentLight.constant(1.0, 4)
CLOSE = dict(rtol=0, atol=2e-3)


def grid(roughness, metallic=1.0, colour=1.0):
    """Points at 12 angles: material, normals, views and N.V."""
    n_dot_v = torch.linspace(0.05, 1.0, 12)[:, None]
    view = torch.cat([(1 - n_dot_v**2).sqrt(), torch.zeros(12, 1), n_dot_v], dim=1)
    full = torch.ones(12, 1)
    values = Material(full.expand(12, 3) * colour, full * roughness, full * metallic)
    return values, torch.tensor([0.0, 0.0, 1.0]).expand(12, 3), view, n_dot_v


def pairs(count=200, lowest=0.3):
    generator = torch.Generator().manual_seed(0)
    found = torch.nn.functional.normalize(torch.randn(4 * count, 2, 3, generator=generator), dim=-1)
    normal, view = found.unbind(1)
    kept = (normal * view).sum(-1) > lowest
    return normal[kept][:count], view[kept][:count]


@pytest.mark.parametrize("roughness", [0.0, 0.25, 0.5, 1.0])
def test_the_white_furnace_of_a_metal_returns_the_energy_of_its_lobe(roughness):
    values, normal, view, n_dot_v = grid(roughness)
    shaded = shade_points(values, normal, view, FURNACE)
    scale, offset = energy.integrate_energy(n_dot_v, torch.full_like(n_dot_v, roughness))
    if roughness:
        assert torch.allclose(shaded.rgb, (scale + offset).expand(12, 3), rtol=0, atol=4e-3)
        assert torch.allclose(shaded.rgb[3:], (scale + offset).expand(12, 3)[3:], **CLOSE)
    filled = shade_points(values, normal, view, FURNACE, ShadeSettings(energy_compensation=True))
    assert torch.allclose(filled.rgb, torch.ones(12, 3), rtol=0, atol=5e-3)


@pytest.mark.parametrize("roughness", [0.1, 0.5, 1.0])
def test_a_white_dielectric_gains_light_only_in_the_simple_mode(roughness):
    values, normal, view, n_dot_v = grid(roughness, metallic=0.0)
    simple = shade_points(values, normal, view, FURNACE).rgb
    scale, offset = energy.split_sum(n_dot_v, values.roughness)
    assert torch.allclose(simple, (1 + 0.04 * scale + offset).expand(12, 3), **CLOSE)
    layered = shade_points(values, normal, view, FURNACE, ShadeSettings(mode="layered")).rgb
    assert float(layered.max()) <= 1 + 1e-3 and float(layered.min()) >= 1 - 1e-3
    # Appendix B of glTF weakens the diffuse part by the Fresnel term of its own half vectors, which are never grazing: it
    # loses a little light seen from above and gains much seen from the side. Sampling says the same (below).
    coupled = shade_points(values, normal, view, FURNACE, ShadeSettings(mode="coupled")).rgb
    assert bool((coupled < simple).all()) and 0.9 < float(coupled[n_dot_v[:, 0] > 0.7].max()) <= 1 + 1e-3


@pytest.mark.parametrize("mode", brdf.MODES)
@pytest.mark.parametrize(("roughness", "metallic"), [(0.3, 1.0), (0.6, 1.0), (0.3, 0.0), (1.0, 0.5)])
def test_sampling_agrees_with_the_furnace(roughness, metallic, mode):
    """Twice the energy would come out of an estimator that counts a light once for each way to draw it."""
    values, normal, view, _ = grid(roughness, metallic)
    generator = torch.Generator().manual_seed(1)
    runs = torch.stack(
        [montecarlo.integrate(values, normal, view, torch.ones_like, 512, mode, generator).rgb for _ in range(8)]
    )
    mean, spread = runs.mean(dim=0), runs.std(dim=0) / math.sqrt(8)
    table = shade_points(values, normal, view, FURNACE, ShadeSettings(mode=mode)).rgb
    assert bool(((mean - table).abs() < 3 * spread + 4e-3).all())


def test_a_lambert_surface_sends_back_half_of_an_even_light():
    normal, view = pairs(20)
    dull = Material(torch.full((20, 3), 0.5), torch.ones(20, 1), torch.zeros(20, 1))
    light = EnvironmentLight.constant(3.0, 4)
    assert torch.allclose(shade_points(dull, normal, view, light).diffuse, torch.full((20, 3), 1.5), atol=1e-5)


def soft_sky(direction):
    """Blue above, brown below, brighter to the front."""
    up = direction[..., 2:]
    return torch.cat([0.7 + 0.2 * up, 0.75 + 0.3 * up, 0.8 + 0.5 * up], dim=-1) * (1 + 0.2 * direction[..., :1])


def soft_lamps(direction):
    """Three lamps with the shape exp(8 (cos - 1)) in a room of 0.6."""
    places = torch.nn.functional.normalize(torch.tensor([[1.0, -1.0, 0.3], [-1.0, 0.2, 0.4], [0.3, 1.0, 1.2]]), dim=-1)
    colours = torch.tensor([[4.0, 1.0, 0.6], [0.6, 3.0, 1.0], [0.8, 1.0, 4.0]])
    return 0.6 + (8 * (direction @ places.T - 1)).exp() @ colours


BOUNDS = {  # relative L1 of (mirror, dominant)
    (soft_sky, 0.25): (0.01, 0.01),
    (soft_sky, 0.5): (0.04, 0.02),
    (soft_sky, 1.0): (0.13, 0.02),
    (soft_lamps, 0.25): (0.08, 0.08),
    (soft_lamps, 0.5): (0.13, 0.13),
    (soft_lamps, 1.0): (0.18, 0.08),
    (torch.ones_like, 0.5): (2e-3, 2e-3),
}


@pytest.mark.parametrize(("sky", "roughness"), BOUNDS)
def test_the_split_sum_is_near_the_truth(sky, roughness):
    normal, view = pairs(100)
    values = Material(torch.ones(100, 3), torch.full((100, 1), roughness), torch.ones(100, 1))
    light = EnvironmentLight(sky(cube_directions(16))).prefiltered()
    truth = montecarlo.integrate(values, normal, view, light.radiance, 1024).rgb
    for direction, bound in zip(("mirror", "dominant"), BOUNDS[sky, roughness], strict=True):
        found = shade_points(values, normal, view, light, ShadeSettings(direction=direction)).rgb
        error = float((found - truth).abs().mean() / truth.mean())
        assert error < bound, f"{direction}: {error:.4f}"
        if direction == "dominant":
            assert abs(float((found - truth).mean() / truth.mean())) < 0.03


def test_diffuse_light_may_come_from_elsewhere():
    normal, view = pairs(5)
    values = Material(torch.full((5, 3), 0.5), torch.ones(5, 1), torch.zeros(5, 1))
    shaded = shade_points(values, normal, view, FURNACE, diffuse_light=torch.full((5, 3), 0.2))
    assert torch.allclose(shaded.diffuse, torch.full((5, 3), 0.1))


def test_lights_of_few_bands_shade_too():
    coefficients = torch.zeros(9, 3)
    coefficients[0] = 2 * math.sqrt(math.pi)
    normal, view = pairs(10)
    values = Material(torch.rand(10, 3), torch.rand(10, 1), torch.rand(10, 1))
    found = shade_points(values, normal, view, ShLight(coefficients)).rgb
    assert torch.allclose(found, shade_points(values, normal, view, FURNACE).rgb, atol=1e-4)


@pytest.mark.parametrize("mode", brdf.MODES)
def test_gradients_of_all_that_is_learnt(mode):
    generator = torch.Generator().manual_seed(3)
    light = ShLight(torch.randn(9, 3, generator=generator, dtype=torch.float64))
    normal, view = (value[:2].double() for value in pairs(8))
    base, rough, metal = (torch.rand(2, k, generator=generator, dtype=torch.float64) * 0.7 + 0.2 for k in (3, 1, 1))

    def read(*numbers):
        values = Material(*numbers[:3])
        settings = ShadeSettings(mode=mode, energy_compensation=True)
        unit = torch.nn.functional.normalize(numbers[3], dim=-1)
        return shade_points(values, unit, view, ShLight(numbers[4]), settings).rgb

    numbers = tuple(value.requires_grad_() for value in (base, rough, metal, normal, light.coefficients))
    assert torch.autograd.gradcheck(read, numbers, atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("roughness", [0.0, 1.0])
@pytest.mark.parametrize("radiance", [0.0, 1.0])
def test_gradients_stay_finite_in_every_corner(roughness, radiance):
    """Normals that are away, across or missing, no roughness, no light: the graph of background pixels must not be NaN."""
    normal = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 0.0, 0.0]], requires_grad=True)
    view = torch.tensor([0.0, 0.0, 1.0]).expand(4, 3)
    base, rough, metal = (torch.full((4, k), v, requires_grad=True) for k, v in ((3, 0.5), (1, roughness), (1, 0.5)))
    light = EnvironmentLight.constant(radiance, 4, learnable=True)
    for settings in (ShadeSettings(), ShadeSettings(mode="coupled", direction="mirror", energy_compensation=True)):
        shaded = shade_points(Material(base, rough, metal), normal, view, light, settings).rgb
        shaded.sum().backward()
        assert bool(torch.isfinite(shaded).all())
    for tensor in (normal, base, rough, metal, light.values):
        assert bool(torch.isfinite(tensor.grad).all())


def test_a_normal_that_faces_away_is_bent_and_keeps_a_gradient():
    values, _, view, _ = grid(0.5)
    away = torch.tensor([0.0, 0.3, -1.0]).expand(12, 3).clone().requires_grad_()
    light = lights.open_light("lamps", 8).prefiltered()
    shade_points(values, torch.nn.functional.normalize(away, dim=-1), view, light).rgb.sum().backward()
    assert float(away.grad.abs().max()) > 1e-3


def test_compositing_mixes_once():
    rgb, alpha = torch.ones(2, 1, 1, 3), torch.tensor([0.25, 1.0]).view(2, 1, 1, 1)
    found = deferred.composite(rgb, alpha, torch.zeros(2, 3))
    assert found[:, 0, 0, 0].tolist() == [0.25, 1.0]
    with pytest.raises(ShapeError, match=r"background has shape \[2, 4\]"):
        deferred.composite(rgb, alpha, torch.zeros(2, 4))


def test_unknown_words_are_refused():
    with pytest.raises(ConfigError, match=r"direction is 'mirrored', which is unknown. Use 'mirror'"):
        ShadeSettings(direction="mirrored")
    with pytest.raises(ConfigError, match=r"mode is 'gltf', which is unknown. Use 'coupled', 'layered' or 'simple'"):
        ShadeSettings(mode="gltf")
