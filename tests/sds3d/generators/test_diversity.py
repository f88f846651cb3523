"""The distance between objects of one prompt."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.generators.diversity import pairwise_distance


def test_equal_seeds_have_no_distance_and_constants_have_theirs() -> None:
    same = torch.rand(1, 2, 4, 4, 3).expand(3, -1, -1, -1, -1)
    assert pairwise_distance(same) == 0.0
    levels = torch.tensor([0.0, 0.3, 0.9])[:, None, None, None, None].expand(3, 2, 4, 4, 3)
    assert pairwise_distance(levels) == pytest.approx((0.3 + 0.6 + 0.9) / 3)


def test_one_seed_has_no_pair() -> None:
    with pytest.raises(ShapeError, match="seeds >= 2"):
        pairwise_distance(torch.zeros(1, 2, 4, 4, 3))
