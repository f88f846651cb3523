"""Timesteps: inclusive uniform windows and groups (part of T24)."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.guidance.times import group_size, sample_times, window


@pytest.mark.parametrize(
    ("t_min", "t_max", "expected"),
    [
        (0.02, 0.98, (20, 980)),
        (0.0, 1.0, (0, 999)),
        (0.29, 0.58, (290, 580)),
        (0.5, 0.5, (500, 500)),
        (0.6, 0.5, (500, 500)),
    ],
)
def test_window_is_a_fraction_of_the_time_axis(t_min: float, t_max: float, expected: tuple[int, int]) -> None:
    assert window(t_min, t_max, 1000) == expected


def test_times_are_uniform_and_reach_both_ends() -> None:
    t = sample_times(20_000, 0.02, 0.029, 1000, torch.Generator().manual_seed(0))
    assert t.dtype == torch.int64
    counts = torch.bincount(t, minlength=30)[20:]
    assert counts.sum() == 20_000 and len(counts) == 10, "all draws lie in 20..29, both included"
    chi_square = ((counts - 2000.0) ** 2 / 2000.0).sum()
    assert chi_square < 27.9  # 99.9 % point of chi-square with 9 degrees of freedom


def test_groups_share_a_time() -> None:
    t = sample_times(12, 0.02, 0.98, 1000, torch.Generator().manual_seed(1), group=4).reshape(3, 4)
    assert (t == t[:, :1]).all() and len(t[:, 0].unique()) == 3
    whole = sample_times(12, 0.02, 0.98, 1000, torch.Generator().manual_seed(1), group=0)
    assert len(whole.unique()) == 1
    assert group_size(12, 0) == 12 and group_size(12, 1) == 1
    with pytest.raises(ShapeError, match=r"the batch has shape \[6\], but a multiple of guidance.group = 4 is needed"):
        sample_times(6, 0.02, 0.98, 1000, torch.Generator(), group=4)
