"""Image losses of methods that follow a video."""

from __future__ import annotations

from torch import Tensor


def balanced(picture: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return half the mean squared error inside the mask plus half that outside: a small object is not drowned.

    Args: picture, target [B, H, W, C]. mask [B, H, W, 1], 1 inside and 0 outside, or a share between.
    An empty inside (or outside) adds 0. Equal to the mean squared error where mask and rest are as large.
    Source: DreamScene4D's masked losses. Deviation: their sum of the two means is halved.
    """
    error = (picture - target).square().mean(dim=-1, keepdim=True)
    outside = 1.0 - mask
    inner = (error * mask).sum() / mask.sum().clamp(min=1e-6)
    outer = (error * outside).sum() / outside.sum().clamp(min=1e-6)
    return 0.5 * (inner + outer)
