"""The distance between objects of one prompt."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.generators.diversity import closeness, pairwise_distance


def test_equal_seeds_have_no_distance_and_constants_have_theirs() -> None:
    same = torch.rand(1, 2, 4, 4, 3).expand(3, -1, -1, -1, -1)
    assert pairwise_distance(same) == 0.0
    levels = torch.tensor([0.0, 0.3, 0.9])[:, None, None, None, None].expand(3, 2, 4, 4, 3)
    assert pairwise_distance(levels) == pytest.approx((0.3 + 0.6 + 0.9) / 3)


def test_one_seed_has_no_pair() -> None:
    with pytest.raises(ShapeError, match="seeds >= 2"):
        pairwise_distance(torch.zeros(1, 2, 4, 4, 3))


def test_closeness_is_what_is_missing_to_the_distance_and_its_gradient_drives_apart() -> None:
    levels = torch.tensor([0.5, 0.53, 0.1, 0.9])  # two prompts of two seeds; only the first two are too close
    pictures = levels[:, None, None, None, None].expand(4, 3, 4, 4, 3).flatten(0, 1).clone().requires_grad_()
    found = closeness(pictures, 2, 3, 0.06)
    assert float(found.detach()) == pytest.approx((0.06 - 0.03) / 2, abs=1e-4)
    (slope,) = torch.autograd.grad(found, pictures)
    first, second, *others = slope.unflatten(0, (4, 3))
    assert (first > 0).all() and (second < 0).all() and not any(other.any() for other in others)
    assert torch.isfinite(
        torch.autograd.grad(closeness(pictures[:1].expand(2, -1, -1, -1), 2, 1, 0.06), pictures)[0]
    ).all()
