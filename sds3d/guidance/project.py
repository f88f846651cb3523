"""Stable score distillation: at small noise, what the prompt adds beyond the noise itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.guidance.branches import PROMPTED, UNPROMPTED, Evidence
from sds3d.guidance.rules import Rule

if TYPE_CHECKING:
    from torch import Tensor


def without(direction: Tensor, vector: Tensor) -> Tensor:
    """Return `vector` [B, C, h, w] minus its projection on `direction`, each sample by itself."""
    axes = (1, 2, 3)
    share = (vector * direction).sum(axes, keepdim=True) / (direction * direction).sum(axes, keepdim=True).clamp(
        min=1e-6
    )
    return vector - share * direction


class Projection(Rule):
    """h = y - 0 above `until`; below it y without its part along the noise, given the length of h.

    Args:
        until: fraction of the time axis; times t <= until T take the second form.

    Source: SSD (arXiv 2312.09305), fudan-zvg/PGC-3D. Deviation: a true projection of each sample (there: division by
    the unsquared length over the whole batch).
    """

    def __init__(self, until: float) -> None:
        self.until = until
        self.needs = (PROMPTED, UNPROMPTED)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual [B, C, h, w]."""
        import torch

        prompted = evidence.predictions[PROMPTED]
        direction = prompted - evidence.predictions[UNPROMPTED]
        rest = without(evidence.epsilon, prompted)
        lengths = [x.flatten(1).norm(dim=1)[:, None, None, None] for x in (direction, rest)]
        scaled = rest * (lengths[0] / lengths[1].clamp(min=1e-12))
        is_early = (evidence.here.t > self.until * evidence.num_timesteps)[:, None, None, None]
        return torch.where(is_early, direction, scaled)
