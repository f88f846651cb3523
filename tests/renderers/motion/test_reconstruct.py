"""Displacements in space from displacements in pictures (projection-reconstruction)."""

import pytest
import torch

from renderers.motion.reconstruct import jacobians_of, reconstruct
from sds3d.cameras import turntable
from sds3d.errors import ConfigError, ShapeError


def test_front_and_side_without_perspective_are_exact_and_share_the_height():
    front = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).double()  # sees x and y
    side = torch.tensor([[0, 0, 1.0], [0, 1.0, 0]]).double()  # sees z and y
    jacobians = torch.stack([front, side])[:, None].expand(2, 5, 2, 3)
    truth = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    moves = torch.einsum("kpij,pj->kpi", jacobians, truth)
    assert (reconstruct(moves, jacobians) - truth).abs().max() < 1e-12
    noisy = moves.clone()
    noisy[0, :, 1] += 0.2  # the two heights contradict each other
    found = reconstruct(noisy, jacobians)
    assert torch.allclose(found - truth, torch.tensor([0.0, 0.1, 0.0]).double().expand(5, 3), atol=1e-12)
    assert torch.linalg.cond(jacobians[:, 0].flatten(0, 1)) == pytest.approx(2**0.5)


def test_perspective_views_reach_the_displacement_in_five_steps():
    generator = torch.Generator().manual_seed(1)
    cameras = turntable(3, 256, elevation_deg=15.0)
    rest = 0.5 * torch.randn(40, 3, generator=generator).double()
    there = rest + 0.15 * torch.randn(40, 3, generator=generator).double()
    wanted, _ = jacobians_of(cameras, there)
    place = rest
    for _ in range(5):
        pixels, jacobians = jacobians_of(cameras, place)
        place = place + reconstruct(wanted - pixels, jacobians)
    assert (place - there).abs().max() < 1e-6
    one_step = rest + reconstruct(wanted - jacobians_of(cameras, rest)[0], jacobians_of(cameras, rest)[1])
    assert (one_step - there).abs().max() > 1e-3  # perspective is not linear


def test_jacobians_are_derivatives():
    cameras, points = turntable(2, 64), torch.tensor([[0.1, -0.2, 0.3]]).double()
    both = torch.autograd.functional.jacobian(lambda x: jacobians_of(cameras, x)[0], points)
    assert torch.allclose(both[:, 0, :, 0], jacobians_of(cameras, points)[1][:, 0], atol=1e-10)


def test_one_view_alone_is_refused():
    pixels, jacobians = jacobians_of(turntable(1, 64), torch.zeros(2, 3).double())
    assert torch.linalg.matrix_rank(jacobians[0, 0]) == 2
    with pytest.raises(ConfigError, match=r"1 view see two directions only.*another side"):
        reconstruct(pixels, jacobians)
    with pytest.raises(ShapeError, match="jacobians"):
        reconstruct(pixels, jacobians[..., :2])
