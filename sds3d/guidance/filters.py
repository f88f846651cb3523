"""Gradient filters: in latents non-finite values, clamp, unit norm (in this order); in pixels PGC and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sds3d.errors import DivergenceError
from sds3d.guidance.config import PixelFilterName

MOST_REPLACED = 0.01
"""Share of a gradient that may be replaced because it is not finite; above it the run stops whatever was configured."""


def stop_if_not_finite(terms: Mapping[str, Tensor], step: int) -> None:
    """Raise DivergenceError naming the first of `terms` (in order) that holds a NaN or infinity.

    All terms are checked with one transfer from the device. Tensors on the meta device have no values and pass.
    """
    if any(term.is_meta for term in terms.values()):
        return
    finite = torch.stack([torch.isfinite(term).all() for term in terms.values()]).tolist()
    for name, is_finite in zip(terms, finite, strict=True):
        if not is_finite:
            raise DivergenceError(name, step)


def replace_non_finite(gradient: Tensor, step: int = 0) -> tuple[Tensor, Tensor]:
    """Return the gradient with 0 for NaN and infinity, and how many elements that were (0-dim).

    Raises: DivergenceError if more than `MOST_REPLACED` of the elements are not finite: a bug, not an accident.
    """
    finite = torch.isfinite(gradient)
    count = (~finite).sum()
    if not gradient.is_meta and int(count) > max(1.0, MOST_REPLACED * gradient.numel()):
        raise DivergenceError(f"guidance:gradient ({int(count)} of {gradient.numel()} elements)", step)
    return torch.where(finite, gradient, torch.zeros_like(gradient)), count


def clamp_elements(gradient: Tensor, limit: float) -> Tensor:
    """Return the gradient with every element in [-limit, limit]. Source: D-SDS (arXiv 2303.15413), section 4.1."""
    return gradient.clamp(-limit, limit)


def to_unit_norm(gradient: Tensor) -> Tensor:
    """Return the gradient scaled to length 1 over the whole batch. Source: CSD (arXiv 2310.19415), coarse stage."""
    length: Tensor = torch.linalg.vector_norm(gradient)
    return gradient / (length + 1e-8)


# ---- pixels: gradients are [B, H, W, C], `size` [B, H, W, 1] is that of each pixel


def pixel_size(gradient: Tensor, norm: str = "inf") -> Tensor:
    """Return [B, H, W, 1], the size of each pixel's gradient: its largest channel ("inf") or its length ("2")."""
    return torch.linalg.vector_norm(gradient, ord=float(norm), dim=-1, keepdim=True)


def clip_pixels(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return each pixel's gradient scaled down to size `limit` if it is larger; its direction stays.

    Source: PGC (arXiv 2310.12474); fudan-zvg/PGC-3D, grad_suppress_type 0.
    """
    return gradient * (limit / size.clamp(min=1e-30)).clamp(max=1.0)


def clip_elements(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return every element in [-limit, limit]; changes directions. Source: PGC-3D, type 1."""
    return gradient.clamp(-limit, limit)


def scale_to_limit(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return each picture's gradient scaled so that its largest element is `limit`. Source: PGC-3D, type 2."""
    return gradient * (limit / gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30))


def squash_sigmoid(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return (sigmoid(g) - 1/2) limit, below limit / 2. Source: PGC-3D, type 3."""
    return (gradient.sigmoid() - 0.5) * limit


def squash_elements(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return limit g / (|g| + limit) element by element. Source: PGC-3D, type 4."""
    return limit * gradient / (gradient.abs() + limit)


def squash_pixels(gradient: Tensor, limit: float, size: Tensor) -> Tensor:
    """Return limit g / (size + limit) pixel by pixel: always below the limit. Source: PGC-3D, type 5 ("PNGD")."""
    return limit * gradient / (size + limit)


PIXEL_FILTERS: dict[PixelFilterName, Callable[[Tensor, float, Tensor], Tensor]] = {
    "pixel": clip_pixels,
    "element": clip_elements,
    "global": scale_to_limit,
    "sigmoid": squash_sigmoid,
    "element-soft": squash_elements,
    "pixel-soft": squash_pixels,
}


def filter_pixels(gradient: Tensor, name: PixelFilterName, limit: float, norm: str = "inf") -> Tensor:
    """Return the gradient of pictures [B, H, W, C] after the filter `name`; "none" returns it as it is.

    limit: c > 0, for the gradient of one picture in [0, 1] (summed over the batch, not averaged).
    Limits: a limit of 0 gives zeros. An infinite limit changes nothing for the clipping filters.
    """
    if name == "none":
        return gradient
    if limit == 0.0:
        return torch.zeros_like(gradient)
    return PIXEL_FILTERS[name](gradient, limit, pixel_size(gradient, norm))
