"""Which timesteps a distillation step looks at."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from sds3d.errors import ShapeError

if TYPE_CHECKING:  # the method table imports this module and must not wait for torch
    import torch
    from torch import Tensor


def window(t_min: float, t_max: float, num_timesteps: int) -> tuple[int, int]:
    """Return the inclusive integer range [floor(T t_min), floor(T t_max)] inside [0, T - 1].

    t_min and t_max are fractions of the time axis in [0, 1]; 0.02 and 0.98 of 1000 give 20 and 980. A window that two
    schedules have turned round (t_min > t_max) collapses to its upper end.
    """
    low, high = (min(max(int(num_timesteps * edge + 1e-6), 0), num_timesteps - 1) for edge in (t_min, t_max))
    return min(low, high), high


def sample_times(
    batch: int, t_min: float, t_max: float, num_timesteps: int, generator: torch.Generator, group: int = 1
) -> Tensor:
    """Return [batch] int64 timesteps on the CPU, uniform over the inclusive `window`; consecutive groups share one.

    Args:
        group: samples that share a timestep: 1 for a time of its own for each, 0 for the whole batch.
    Raises: ShapeError if the batch is not a whole number of groups.
    """
    import torch

    size = group_size(batch, group)
    low, high = window(t_min, t_max, num_timesteps)
    t = torch.randint(low, high + 1, (batch // size,), generator=generator)
    return t.repeat_interleave(size)


def group_size(batch: int, group: int) -> int:
    """Return the number of samples of a group, where `group` 0 means the whole batch."""
    size = group or batch
    if batch % size:
        raise ShapeError("the batch", f"a multiple of guidance.group = {size}", (batch,))
    return size


def dreamtime(done: float, low: int, high: int, levels: tuple[float, ...] | None = None) -> int:
    """Return DreamTime's timestep when the fraction `done` of the run is over: falling, no draw.

    p(t) is in proportion to W(t) = exp(-(t - 800)^2 / (2 300^2)) above 800, 1 from 500 to 800 and
    exp(-(t - 500)^2 / (2 100^2)) below; the time is the t for which the share of p at and above it is nearest to `done`.

    Args:
        done: fraction of the run, in [0, 1].
        low, high: inclusive range of timesteps of a time axis of 1000; p is restricted to it.
        levels: sigma / alpha of each of the 1000 timesteps to multiply p with, or None.

    Source: DreamTime (arXiv 2306.12422); constants of fudan-zvg/PGC-3D. Deviation: the factor sigma / alpha, which the
    paper has and both public codes omit, is an option.
    """
    remaining = _mass_from(low, high, levels)
    return low + min(range(len(remaining)), key=lambda i: (abs(remaining[i] - done), -i))


@lru_cache(maxsize=64)
def _mass_from(low: int, high: int, levels: tuple[float, ...] | None) -> tuple[float, ...]:
    """Return the share of p at and above each timestep of the range."""
    weights = []
    for t in range(low, high + 1):
        weight = math.exp(-((t - 800) ** 2) / (2 * 300**2)) if t > 800 else 1.0
        weight = math.exp(-((t - 500) ** 2) / (2 * 100**2)) if t < 500 else weight
        weights.append(weight * (levels[t] if levels is not None else 1.0))
    total, sums, so_far = sum(weights), [], 0.0
    for weight in reversed(weights):
        so_far += weight / total
        sums.append(so_far)
    return tuple(reversed(sums))
