"""The trainable numbers of a Gaussian cloud, and their activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ShapeError

GROUPS = ("means", "quats", "log_scales", "opacity_logits", "sh0")
"""The kinds of parameters, in the order in which optimiser groups list them."""

_WIDTHS = {"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "sh0": (3,)}


@dataclass(frozen=True, kw_only=True)
class Gaussians:
    """N Gaussians before activation.

    Args:
        means: [N, 3] centres, world frame.
        quats: [N, 4] wxyz; the rasteriser normalises them.
        log_scales: [N, 3]; exp gives standard deviations in world units.
        opacity_logits: [N]; sigmoid gives opacities.
        sh0: [N, 3]; max(0, 0.5 + 0.2821 sh0) gives colours.

    Raises: ShapeError if a tensor has another shape.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    sh0: Tensor

    def __post_init__(self) -> None:
        for name, width in _WIDTHS.items():
            tensor, expected = getattr(self, name), (self.means.shape[0], *width)
            if tensor.shape != expected:
                raise ShapeError(name, str(list(expected)), tuple(tensor.shape))

    def __len__(self) -> int:
        return self.means.shape[0]


def empty(count: int, like: Tensor) -> Gaussians:
    """Return `count` unrotated, all-zero Gaussians with the device and dtype of `like` (to be overwritten)."""
    fields = {name: torch.zeros(count, *width, device=like.device, dtype=like.dtype) for name, width in _WIDTHS.items()}
    fields["quats"][:, 0] = 1.0
    return Gaussians(**fields)
