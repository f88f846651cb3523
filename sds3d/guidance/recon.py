"""Guided clean estimates with their spread brought back (MVDream's answer to over-saturation)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.guidance.times import group_size
from sds3d.priors.parametrisation import epsilon_to_clean

if TYPE_CHECKING:
    from torch import Tensor

    from sds3d.guidance.branches import Point


def rescaled_clean(guided: Tensor, prompted: Tensor, point: Point, share: float, group: int = 0) -> Tensor:
    """Return the clean estimate of `guided`, moved by `share` towards the spread of the clean estimate of `prompted`.

    x' = share k x + (1 - share) x with k = (std of the prompted estimate) / (std of x); the unbiased standard deviation
    runs over all samples, channels and pixels of a group, but the factor multiplies x itself, about zero.

    Args:
        guided, prompted: [B, C, h, w] noise predictions with and without guidance.
        point: the noisy point they belong to; samples of a group must share its timestep.
        share: phi in [0, 1]; 0 leaves the estimate as it is.
        group: consecutive samples measured together; 1 = each alone, 0 = the whole batch.

    Source: MVDream (arXiv 2308.16512), section 3.3, and bytedance/MVDream-threestudio
    (threestudio/models/guidance/multiview_diffusion_guidance.py); the idea is arXiv 2305.08891, section 3.4.
    Deviation: the group is an argument; there it is the number of views.
    """
    clean = epsilon_to_clean(guided, point.z, point.alpha, point.sigma)
    if share == 0.0:
        return clean
    plain = epsilon_to_clean(prompted, point.z, point.alpha, point.sigma)
    size = group_size(len(clean), group)
    spread, wanted = (x.reshape(-1, size * x[0].numel()).std(dim=1) + 1e-8 for x in (clean, plain))
    factor = (wanted / spread).repeat_interleave(size)[:, None, None, None]  # one a sample
    return clean * (share * factor + (1.0 - share))
