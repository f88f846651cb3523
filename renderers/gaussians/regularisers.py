"""Loss terms that keep a Gaussian cloud sparse, solid, compact and in place. Each returns a scalar >= 0."""

from __future__ import annotations

import torch
from torch import Tensor


def opacity(alpha: Tensor) -> Tensor:
    """Return the mean of rendered alpha [B, H, W, 1]: an object should cover no more of the picture than it needs."""
    return alpha.mean()


def binary(alpha: Tensor) -> Tensor:
    """Return the mean of alpha (1 - alpha), at most 1/4: a pixel should be object or background, not fog."""
    return (alpha * (1.0 - alpha)).mean()


def variation(alpha: Tensor) -> Tensor:
    """Return the mean absolute difference of neighbouring pixels' alpha [B, H, W, 1], summed over both directions."""
    down = (alpha[:, 1:] - alpha[:, :-1]).abs().mean() if alpha.shape[1] > 1 else alpha.new_zeros(())
    right = (alpha[:, :, 1:] - alpha[:, :, :-1]).abs().mean() if alpha.shape[2] > 1 else alpha.new_zeros(())
    return down + right


def opacity_mean(opacities: Tensor) -> Tensor:
    """Return the mean of the Gaussians' own opacities [N]. Source: Kheradmand et al., 2024, section 3.5."""
    return opacities.mean()


def scale_mean(scales: Tensor) -> Tensor:
    """Return the mean of all standard deviations [N, 3]. Source: Kheradmand et al., 2024, section 3.5."""
    return scales.mean()


def scale(scales: Tensor, largest: float, needle_ratio: float) -> Tensor:
    """Return the penalty of Gaussians that are too big or like needles.

    scales [N, 3] in world units; free up to `largest` world units and up to a ratio of longest to middle axis of
    `needle_ratio` (discs are good surfaces, needles stick out). The excess counts linearly: (s - largest) / largest
    and ln(ratio / needle_ratio), each averaged over the Gaussians.
    """
    ordered = scales.sort(dim=1, descending=True).values
    too_big = torch.relu(ordered[:, 0] - largest) / largest
    too_thin = torch.relu(torch.log(ordered[:, 0] / ordered[:, 1].clamp_min(1e-12) / needle_ratio))
    return too_big.mean() + too_thin.mean()


def outside(means: Tensor, radius: float = 1.0) -> Tensor:
    """Return the mean squared distance by which centres [N, 3] lie outside the ball of `radius` about the origin."""
    return torch.relu(torch.linalg.vector_norm(means, dim=1) - radius).square().mean()
