"""Balanced score distillation: the shortest direction that serves two aims at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from sds3d.guidance.branches import BASELINE, PROMPTED, Evidence
from sds3d.guidance.rules import Rule, value_of
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor

AUTO_SMOOTHING = 1.25
AUTO_WEIGHT = 50.0
AUTO_VIEWS = 4
"""Constants of the "auto" variant (HansenHuang0823/PlacidDreamer, guidance/sd_utils.py; four views a step)."""


def shortest_between(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shortest point of the segment from `first` to `second` and gamma, its share of `first`.

    gamma = clamp(<second - first, second> / |second - first|^2, 0, 1), each sample by itself (inner products over
    channels and pixels); where both ends are the same point gamma is 1/2.

    Args: first, second: [B, C, h, w]. Returns: [B, C, h, w] and [B, 1, 1, 1].
    Source: the two-objective case of MGDA (Desideri 2012), used by PlacidDreamer (arXiv 2407.13976).
    """
    import torch

    gap = second - first
    axes = (1, 2, 3)
    length = (gap * gap).sum(axes, keepdim=True)
    share = (gap * second).sum(axes, keepdim=True) / length.clamp(min=1e-30)
    share = torch.where(length > 1e-30, share, torch.full_like(share, 0.5)).clamp(0.0, 1.0)
    return share * first + (1.0 - share) * second, share


class MinimumNorm(Rule):
    """The shortest convex combination of a classifier direction c and a smoothing direction d.

    fixed: c = ratio (y - u), d = u.
    auto: c = y - u, d = 1.25 (u - eps), times |u - eps| sigma / 50 with the length of a sample times sqrt(4).

    Source: PlacidDreamer (arXiv 2407.13976) and its code. Deviations: gamma is per sample also in "auto"; the length in
    "auto" is that of a sample times the root of the four views of the public code (there: of the whole batch), so that
    samples do not depend on each other.
    Limits: gamma depends on the noise, so the mean of the residual is not the residual of the means.
    """

    def __init__(self, ratio: Schedule, mode: Literal["fixed", "auto"] = "fixed") -> None:
        self.ratio, self.mode = ratio, mode
        self.needs = (PROMPTED, BASELINE)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w]."""
        prompted, baseline = evidence.predictions[PROMPTED], evidence.predictions[BASELINE]
        if self.mode == "fixed":
            return shortest_between(value_of(self.ratio, evidence) * (prompted - baseline), baseline)[0]
        smoothing = baseline - evidence.epsilon
        residual, _ = shortest_between(prompted - baseline, AUTO_SMOOTHING * smoothing)
        length = smoothing.flatten(1).norm(dim=1)[:, None, None, None] * AUTO_VIEWS**0.5
        return residual * (length * evidence.here.sigma / AUTO_WEIGHT)
