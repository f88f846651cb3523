"""Samples drawn where a first pass found something: inverse of a piecewise constant distribution."""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = 0.01
"""Added to the weights of a ray of total 1 (spread over its intervals), so that no place is left out.
Source: Barron et al. 2021 (Mip-NeRF), section 3.1."""


def resample(edges: Tensor, weights: Tensor, count: int, jitter: Tensor) -> Tensor:
    """Return `count` + 1 new edges a ray [R, count + 1], ascending, dense where `weights` are large.

    Args:
        edges: [R, K + 1] ascending. weights: [R, K] >= 0 of the intervals between them, any sum.
        count: new intervals. jitter: [R] in [0, 1), shift of the equidistant quantiles by a share of their spacing.

    The first and the last edge stay, so nothing outside the new intervals is lost. No gradient flows.
    Source: Mildenhall et al. 2020 (NeRF), section 5.2; equidistant quantiles as in Mip-NeRF.
    """
    edges, weights = edges.detach(), weights.detach()
    share = (weights + PADDING / weights.shape[1]) / (weights.sum(dim=1, keepdim=True) + PADDING)
    cumulative = torch.nn.functional.pad(share.cumsum(dim=1), (1, 0)).clamp(max=1.0)
    cumulative = torch.cat([cumulative[:, :-1], torch.ones_like(cumulative[:, :1])], dim=1)
    inner = (torch.arange(count - 1, device=edges.device, dtype=edges.dtype) + 0.5 + jitter[:, None]) / count
    after = torch.searchsorted(cumulative, inner, right=True).clamp(1, weights.shape[1])
    low, high = cumulative.gather(1, after - 1), cumulative.gather(1, after)
    way = ((inner - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    start = edges.gather(1, after - 1)
    placed = start + way * (edges.gather(1, after) - start)
    return torch.cat([edges[:, :1], placed, edges[:, -1:]], dim=1)
