"""Cube maps: exact at texels, of second order between them, no seams, and gradients."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.shading import cubemap, directions

SLOPE = torch.tensor([[0.3, 0.1], [-0.2, 0.4], [0.5, -0.3]])


def linear(direction):
    return direction @ SLOPE.to(direction.dtype) + 1.0


def lookup(texels, direction):
    return cubemap.lookup(cubemap.bordered(texels[None]), direction)


def random_directions(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=-1)


@pytest.mark.parametrize("resolution", [2, 7, 16])
def test_the_direction_of_a_texel_returns_the_texel(resolution):
    texels = torch.rand(6, resolution, resolution, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lookup(texels, directions.cube_directions(resolution)), texels, atol=1e-5)


def test_the_error_falls_with_the_square_of_the_texel_also_at_corners():
    corner = torch.tensor([1.0, -1.0, 1.0])
    errors = []
    for resolution in (8, 16, 32):
        near = torch.nn.functional.normalize(corner + (0.3 / resolution) * random_directions(500), dim=-1)
        texels = linear(directions.cube_directions(resolution))
        found = [(lookup(texels, place) - linear(place)).abs().max() for place in (random_directions(5000), near)]
        errors.append([float(error) for error in found])
    for fine, coarse in zip(errors[1:], errors, strict=False):
        assert all(3.0 < before / after < 5.0 for before, after in zip(coarse, fine, strict=True))
    assert errors[-1][0] < 1e-3


def test_there_is_no_seam_between_faces():
    resolution, step = 16, 1e-4
    texels = linear(directions.cube_directions(resolution))
    along = torch.linspace(-1, 1, 101)
    for axis in range(3):
        for other in range(3):
            if other == axis:
                continue
            edge = torch.zeros(101, 3)
            edge[:, axis], edge[:, other], edge[:, 3 - axis - other] = 1.0, 1.0, along
            here, there = edge.clone(), edge.clone()
            here[:, axis] += step
            there[:, other] += step
            assert float((lookup(texels, here) - lookup(texels, there)).abs().max()) < 1e-3


def test_borders_are_means_of_texels():
    # Positive weights that sum to 1: a light never becomes negative, a constant stays what it is.
    _, weight = cubemap._border(8)
    assert float(weight.min()) >= 0 and torch.allclose(weight.sum(dim=1), torch.ones(len(weight), dtype=weight.dtype))


def test_levels_are_mixed_linearly():
    texels = torch.stack([torch.full((6, 4, 4, 3), value) for value in (1.0, 3.0, 7.0)])
    atlas, place = cubemap.bordered(texels), random_directions(3)
    found = cubemap.lookup(atlas, place, torch.tensor([[0.0], [0.5], [1.75]]))
    assert found[:, 0].tolist() == pytest.approx([1.0, 2.0, 6.0], abs=1e-5)


def test_gradients_of_directions_levels_and_texels():
    generator = torch.Generator().manual_seed(2)
    texels = torch.rand(2, 6, 2, 2, 1, generator=generator, dtype=torch.float64, requires_grad=True)
    place = random_directions(4, seed=5).double().requires_grad_()
    level = torch.rand(4, 1, generator=generator, dtype=torch.float64, requires_grad=True)

    def read(t, p, k):
        return cubemap.lookup(cubemap.bordered(t), p, k)

    assert torch.autograd.gradcheck(read, (texels, place, level), atol=1e-5, fast_mode=True)


def test_halving_keeps_the_energy():
    texels = torch.rand(6, 8, 8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = (texels * directions.cube_solid_angles(8)[..., None]).sum(dim=(0, 1, 2))
    half = (cubemap.halved(texels) * directions.cube_solid_angles(4)[..., None]).sum(dim=(0, 1, 2))
    assert torch.allclose(whole, half, rtol=1e-12)


def test_another_shape_is_refused():
    with pytest.raises(ShapeError, match=r"cubemap has shape \[6, 4, 5, 3\], but \[6, R, R, channels\] is needed"):
        cubemap.halved(torch.zeros(6, 4, 5, 3))
