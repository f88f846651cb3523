"""Prefiltering: constant light stays constant, sparse equals dense, gradients, rotation."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.errors import ConfigError, ShapeError
from sds3d.shading import directions, lights, prefilter
from sds3d.shading.environment import EnvironmentLight

CPU = torch.device("cpu")


def some_directions(count=50, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator, dtype=dtype), dim=-1)


@pytest.mark.parametrize("dense_entries", [prefilter.DENSE_ENTRIES, 0])
def test_even_light_stays_what_it_is(dense_entries, monkeypatch):
    monkeypatch.setattr(prefilter, "DENSE_ENTRIES", dense_entries)
    light = EnvironmentLight.constant(0.7, 8).prefiltered()
    place, rough = some_directions(), torch.linspace(0, 1, 50)[:, None]
    for found in (light.radiance(place), light.diffuse(place), light.specular(place, rough)):
        assert torch.allclose(found, torch.full_like(found, 0.7), atol=1e-5)


def test_levels_are_where_the_ladder_says():
    knots = torch.tensor([knot for knot, _ in prefilter.LADDER])
    assert torch.allclose(prefilter.level_of(knots), torch.arange(len(knots), dtype=torch.float32))
    assert prefilter.level_of(torch.tensor([0.0, 0.7])).tolist() == pytest.approx([0.0, 4.5])


def test_resolutions_shrink_up_the_ladder_and_reading_is_continuous_across_them(monkeypatch):
    limits = (0, 16, 8, 4, 4, 4, 4)
    ladder = tuple((knot, limit) for (knot, _), limit in zip(prefilter.LADDER, limits, strict=True))
    monkeypatch.setattr(prefilter, "LADDER", ladder)
    light = EnvironmentLight.from_latlong(lights.named_light("sky", 32), 16).prefiltered()
    assert [group.atlas.shape[-1] - 2 for group in light.groups] == [16, 8, 4]
    assert [(group.first, group.last) for group in light.groups] == [(0, 1), (2, 2), (3, 6)]
    place = some_directions(1).expand(400, 3)
    along = light.specular(place, torch.linspace(0, 1, 400)[:, None])
    assert float(along.diff(dim=0).abs().max()) < 0.01 < float((along[0] - along[-1]).abs().max())


def test_the_kernel_is_the_integral_of_the_lobe():
    """One row against a sum in which each texel is divided into 8 x 8 points."""
    resolution, roughness = 8, 0.6
    row = prefilter.dense_kernel(resolution, roughness, CPU, torch.float32)[10]
    place = directions.cube_directions(resolution).view(-1, 3)
    fine = directions.cube_directions(resolution, 8)
    cosine = fine @ place[10]
    alpha2 = roughness**4
    lobe = alpha2 / (math.pi * ((1 + cosine) / 2 * (alpha2 - 1) + 1) ** 2) * cosine.clamp_min(0)
    weight = lobe * directions.cube_solid_angles(8 * resolution).float()
    weight = weight.view(6, resolution, 8, resolution, 8).sum(dim=(2, 4)).flatten()
    assert float((row - weight / weight.sum()).abs().sum()) < 0.06


@pytest.mark.parametrize("roughness", [0.12, 0.25, 0.6, None])
def test_the_sparse_matrix_is_the_dense_one_without_its_tail(roughness):
    dense = prefilter.dense_kernel(8, roughness, CPU, torch.float64)
    sparse, transposed = prefilter.sparse_kernel(8, roughness, CPU, torch.float64)
    kept = torch.where(dense >= prefilter.SPARSE_CUTOFF * dense.amax(dim=1, keepdim=True), dense, 0.0)
    kept = kept / kept.sum(dim=1, keepdim=True)
    assert torch.allclose(sparse.to_dense(), kept, atol=1e-6)
    assert torch.equal(transposed.to_dense(), sparse.to_dense().T)


def test_the_backward_of_the_sparse_product_is_the_transpose():
    matrix, transposed = prefilter.sparse_kernel(4, 0.4, CPU, torch.float64)
    values = torch.rand(96, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    found = prefilter.SparseProduct.apply(values, matrix, transposed)
    assert torch.allclose(found, matrix.to_dense() @ values)
    assert torch.autograd.gradcheck(lambda v: prefilter.SparseProduct.apply(v, matrix, transposed), (values,))


def test_gradients_of_light_direction_and_roughness():
    light = EnvironmentLight(torch.rand(6, 2, 2, 3).double() + 0.5, activation="exp", learnable=True)
    place = some_directions(4, torch.float64).requires_grad_()
    rough = torch.tensor([[0.3], [0.5], [0.07], [0.9]], dtype=torch.float64, requires_grad=True)

    def read(values, direction, roughness):
        found = prefilter.prefilter(values.exp())
        return found.specular(direction, roughness), found.diffuse(direction), found.radiance(direction)

    assert torch.autograd.gradcheck(read, (light.values, place, rough), atol=1e-5, fast_mode=True)


def test_a_turned_light_shines_from_where_it_was_turned_to():
    light = EnvironmentLight.from_latlong(lights.named_light("sunset", 32), 8).prefiltered()
    front, left = torch.tensor([[1.0, 0.2, 0.1]]), torch.tensor([[-0.2, 1.0, 0.1]])
    turned = light.rotated(math.radians(90))
    rough = torch.tensor([[0.3]])
    assert torch.allclose(turned.specular(left, rough), light.specular(front, rough), atol=1e-5)
    assert torch.allclose(turned.rotated(math.radians(-90)).diffuse(front), light.diffuse(front), atol=1e-5)


def test_layouts_agree():
    image = lights.named_light("sky", 32)
    flat = EnvironmentLight(image, "latlong", resolution=16)
    cube = EnvironmentLight.from_latlong(image, 16)
    assert torch.allclose(flat.cubemap(), cube.cubemap())
    assert torch.allclose(cube.latlong(32), image, atol=0.03)


def test_a_learnt_image_gets_gradients_and_stays_positive():
    light = EnvironmentLight(lights.named_light("sky", 16), "latlong", resolution=8, activation="exp", learnable=True)
    light.prefiltered().diffuse(some_directions()).sum().backward()
    assert float((light.values.grad > 0).float().mean()) > 0.9 and float(light.texels().detach().min()) > 0


def test_a_fixed_light_is_filtered_once_and_again_when_it_changes():
    light = EnvironmentLight.constant(1.0, 4)
    first = light.prefiltered()
    assert light.prefiltered() is first
    light.load_state_dict({"values": torch.full((6, 4, 4, 3), 2.0)})
    assert float(light.prefiltered().diffuse(some_directions(1))[0, 0]) == pytest.approx(2.0, abs=1e-5)


def test_regularisers_are_zero_for_grey_and_even_light():
    light = EnvironmentLight.constant(0.5, 4)
    assert float(light.whiteness()) == 0.0 and float(light.variation()) == 0.0
    red = EnvironmentLight(torch.tensor([0.9, 0.3, 0.3]).expand(6, 4, 4, 3))
    assert float(red.whiteness()) == pytest.approx(0.4 + 0.2 + 0.2)


def test_bad_lights_are_refused():
    with pytest.raises(ConfigError, match="negative, infinite or NaN texels"):
        EnvironmentLight(torch.full((6, 4, 4, 3), -1.0))
    with pytest.raises(ConfigError, match=r"layout is 'cube', which is unknown. Use 'cubemap'"):
        EnvironmentLight(torch.ones(6, 4, 4, 3), "cube")
    with pytest.raises(ShapeError, match=r"texels has shape \[5, 4, 4, 3\]"):
        EnvironmentLight(torch.ones(5, 4, 4, 3))


def test_a_training_step_needs_no_values():
    """On the meta device nothing can be looked at."""
    light = EnvironmentLight(torch.empty(6, 8, 8, 3, device="meta"), activation="exp", learnable=True)
    found = light.prefiltered().specular(torch.empty(5, 3, device="meta"), torch.empty(5, 1, device="meta"))
    (found.sum() + light.whiteness()).backward()
    assert light.values.grad.shape == (6, 8, 8, 3)
