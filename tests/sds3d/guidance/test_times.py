"""Timesteps: inclusive uniform windows, groups, DreamTime (T24; schedules themselves are in tests/sds3d/test_schedule.py)."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.guidance.config import fall
from sds3d.guidance.guide import Guidance
from sds3d.guidance.times import dreamtime, group_size, sample_times, window
from sds3d.priors.noise_levels import variance_preserving


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


@pytest.mark.parametrize(("done", "t"), [(0.0, 999), (0.1, 929), (0.25, 834), (0.5, 681), (0.75, 528), (0.9, 431)])
def test_dreamtime_has_the_published_values(done: float, t: int) -> None:
    assert abs(dreamtime(done, 0, 999) - t) <= 1


@pytest.mark.parametrize(("done", "t"), [(0.1, 976), (0.25, 936), (0.5, 850), (0.75, 711), (0.9, 560)])
def test_dreamtime_with_the_factor_of_the_paper(done: float, t: int) -> None:
    levels = variance_preserving()
    ratio = tuple((levels.sigma / levels.alpha).tolist())
    assert abs(dreamtime(done, 0, 999, ratio) - t) <= 1


def test_dreamtime_falls_and_stays_in_its_window() -> None:
    times = [dreamtime(step / 100, 200, 681) for step in range(101)]
    assert times == sorted(times, reverse=True) and times[0] == 681 and times[-1] <= 210
    assert len(set(times)) > 90, "the whole window is used"


def test_guidance_follows_dreamtime_without_a_draw(make_guide) -> None:
    guide: Guidance = make_guide("sds", steps=100, times="dreamtime", t_min=0, t_max=1)
    z0 = torch.zeros(3, 4, 6, 6)
    for step, t in ((10, 929), (50, 681), (90, 431)):
        assert guide.draw(z0, step, torch.Generator()).t.tolist() == [dreamtime(step / 100, 0, 999)] * 3
        assert abs(dreamtime(step / 100, 0, 999) - t) <= 1
    with_factor: Guidance = make_guide("sds", steps=100, times="dreamtime-snr", t_min=0, t_max=1)
    assert abs(with_factor.draw(z0, 50, torch.Generator()).t[0].item() - 850) <= 1


def test_annealed_times_are_windows_without_width(make_guide) -> None:
    """HiFA: t = t_max - (t_max - t_min) sqrt(i / N), the same for the whole batch, at both ends exact."""
    guide: Guidance = make_guide("hifa", steps=100)
    z0 = torch.zeros(2, 4, 6, 6)
    for step in (0, 25, 99):
        expected = int(1000 * (0.98 - 0.68 * (step / 100) ** 0.5) + 1e-6)
        assert guide.draw(z0, step, torch.Generator()).t.tolist() == [expected] * 2
    assert fall(0.98, 0.3, interpolation="sqrt").at(100, 100) == pytest.approx(0.3)


def test_two_phase_windows_jump(make_guide) -> None:
    guide: Guidance = make_guide("vsd", steps=100)
    assert [guide.config.t_max.at(step, 100) for step in (0, 19, 20, 99)] == [0.98, 0.98, 0.5, 0.5]
