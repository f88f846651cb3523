"""Latent-space gradient filters, applied in this order: non-finite values, clamp, unit norm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sds3d.errors import DivergenceError


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


def replace_non_finite(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient with 0 for NaN and infinity, and how many elements that were (0-dim)."""
    finite = torch.isfinite(gradient)
    return torch.where(finite, gradient, torch.zeros_like(gradient)), (~finite).sum()


def clamp_elements(gradient: Tensor, limit: float) -> Tensor:
    """Return the gradient with every element in [-limit, limit]. Source: D-SDS (arXiv 2303.15413), section 4.1."""
    return gradient.clamp(-limit, limit)


def to_unit_norm(gradient: Tensor) -> Tensor:
    """Return the gradient scaled to length 1 over the whole batch. Source: CSD (arXiv 2310.19415), coarse stage."""
    length: Tensor = torch.linalg.vector_norm(gradient)
    return gradient / (length + 1e-8)
