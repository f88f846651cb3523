"""Spherical harmonics: the basis, irradiance and hidden light against integrals over the sphere."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians import sh as splat_sh
from sds3d.errors import ShapeError
from sds3d.shading import directions, lights, sh
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.prefilter import Prefiltered

RESOLUTION = 24


def sphere(resolution=RESOLUTION):
    place = directions.cube_directions(resolution).double().view(-1, 3)
    return torch.nn.functional.normalize(place, dim=-1), directions.cube_solid_angles(resolution).flatten()


def normals(count=64):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=torch.float64), dim=-1)


def brute_force(light, normal, visible=None):
    """Irradiance / pi [N, C] by a sum over the texels of a fine cube map."""
    place, area = sphere(64)
    weight = (normal @ place.T).clamp_min(0) * area / math.pi
    seen = light(place) if visible is None else light(place) * visible(place)[:, None]
    return weight @ seen


def test_the_basis_is_orthonormal():
    place, area = sphere(96)
    values = sh.basis(place, 4)
    assert torch.allclose((values * area[:, None]).T @ values, torch.eye(25, dtype=torch.float64), atol=5e-4)
    # The triple product with the constant function is the same matrix, by exact quadrature.
    exact = sh.triple_products(4, 4, 0)[..., 0] * 2 * math.sqrt(math.pi)
    assert torch.allclose(exact, torch.eye(25, dtype=torch.float64), atol=1e-5)


def test_signs_and_order_are_those_of_splats():
    place = normals()
    assert torch.allclose(sh.basis(place, 3), splat_sh.basis(place, 3), atol=1e-12)


def test_irradiance_of_even_and_linear_skies_is_exact():
    slope = torch.tensor([0.4, -0.3, 0.2], dtype=torch.float64)
    texels = torch.nn.functional.normalize(directions.cube_directions(64).double(), dim=-1) @ slope[:, None] + 1
    found = sh.irradiance(sh.project(texels, 2), normals())
    # A sky 1 + s.w gives 1 + 2/3 s.n.
    assert torch.allclose(found, 1 + (2 / 3) * (normals() @ slope)[:, None], atol=1e-3)


def test_soft_lamps_are_within_five_percent():
    texels = lights.LIGHTS["lamps"](directions.cube_directions(RESOLUTION)).double()
    truth = brute_force(lambda place: lights.LIGHTS["lamps"](place.float()).double(), normals())
    error = (sh.irradiance(sh.project(texels, 2), normals()) - truth).abs().mean() / truth.mean()
    assert float(error) < 0.05


def test_an_open_sky_hides_nothing():
    coefficients = sh.project(lights.LIGHTS["lamps"](directions.cube_directions(RESOLUTION)).double(), 3)
    openness = torch.zeros(64, 16, dtype=torch.float64)
    openness[:, 0] = 2 * math.sqrt(math.pi)
    seen = sh.irradiance_seen(coefficients, openness, normals())
    assert torch.allclose(seen, sh.irradiance(coefficients, normals()), atol=1e-3)


def test_half_a_sky_under_even_light_is_exact():
    """A wall at y < 0: visibility 1 for y > 0. Its exact coefficients of bands 0, 1 (and 3) suffice for irradiance to 1e-3,
    for the product with an even light is the visibility itself, of which the cosine reads bands 0 to 2."""
    place, area = sphere(96)
    is_open = (place[:, 1] > 0).double()
    visibility = (sh.basis(place, 3) * (area * is_open)[:, None]).sum(dim=0)
    even = torch.zeros(9, 3, dtype=torch.float64)
    even[0] = 2 * math.sqrt(math.pi)
    normal = normals()
    seen = sh.irradiance_seen(even, visibility.expand(64, 16), normal)
    # The share of the cosine lobe within a half space is (1 + n.h) / 2, of bands 0 and 1 alone.
    assert torch.allclose(seen[:, 0], 0.5 * (1 + normal[:, 1]), atol=1e-3)


def test_specular_of_few_bands_is_that_of_the_prefiltered_map():
    """For a light that is band-limited, both ways of blurring agree."""
    generator = torch.Generator().manual_seed(4)
    light = sh.ShLight(torch.cat([torch.full((1, 3), 8.0), torch.randn(8, 3, generator=generator)]))
    texels = light.radiance(directions.cube_directions(16)).clamp_min(0)
    filtered: Prefiltered = EnvironmentLight(texels).prefiltered()
    place = normals().float()
    for roughness in (0.25, 0.6, 1.0):
        rough = torch.full((64, 1), roughness)
        error = (light.specular(place, rough) - filtered.specular(place, rough)).abs()
        assert float(error.max()) < 0.01 * float(texels.mean()) * 3
    assert float((light.diffuse(place) - filtered.diffuse(place)).abs().max()) < 0.02 * float(texels.mean())
    assert torch.allclose(light.radiance(place), filtered.radiance(place), atol=0.05)


def test_gradients_of_roughness_coefficients_and_directions():
    light = torch.randn(9, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64, requires_grad=True)
    place = normals(3).requires_grad_()
    rough = torch.tensor([[0.21], [0.52], [0.83]], dtype=torch.float64, requires_grad=True)

    def read(c, d, r):
        return sh.ShLight(c).specular(d, r), sh.ShLight(c).diffuse(d)

    assert torch.autograd.gradcheck(read, (light, place, rough))


def test_wrong_numbers_of_coefficients_are_refused():
    with pytest.raises(ShapeError, match=r"K >= 9"):
        sh.irradiance(torch.zeros(4, 3), torch.zeros(1, 3))
    with pytest.raises(ShapeError, match=r"\(degree \+ 1\)\^2"):
        sh.degree_of(10)
