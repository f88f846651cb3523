"""Loss terms of volume renderings. Each returns a scalar >= 0; none looks at a value on the host."""

from __future__ import annotations

from torch import Tensor


def opacity(alpha: Tensor) -> Tensor:
    """Return the mean of sqrt(alpha^2 + 0.01). Source: threestudio's sparsity term, after DreamFusion's."""
    return (alpha.square() + 0.01).sqrt().mean()


def entropy(alpha: Tensor) -> Tensor:
    """Return the mean binary entropy of alpha, in nats. Source: threestudio's opaqueness term."""
    safe = alpha.clamp(1e-3, 1.0 - 1e-3)
    return -(safe * safe.log() + (1.0 - safe) * (1.0 - safe).log()).mean()


def over_hits(values: Tensor, alpha: Tensor, least: float) -> Tensor:
    """Return the mean of `values` over pixels with alpha above `least`; 0 where there are none."""
    hit = (alpha > least).to(values.dtype)
    return (values * hit).sum() / hit.sum().clamp(min=1.0)


def z_variance(variance: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean variance of the distance along rays with alpha > 0.5. Source: Zhu et al. 2023 (HiFA), eq. 13."""
    return over_hits(variance, alpha, 0.5)


def facing_away(normals: Tensor, directions: Tensor) -> Tensor:
    """Return [N] max(0, n . d)^2 of unit normals and directions of view (from the camera).

    Source: Verbin et al. 2022 (Ref-NeRF), eq. 11. Weights are to be held fixed when it is summed.
    """
    return (normals * directions).sum(dim=-1).clamp(min=0.0).square()


def eikonal(gradient: Tensor) -> Tensor:
    """Return [N] (length of `gradient` [N, 3] - 1)^2. Source: Gropp et al. 2020 (IGR), eq. 2."""
    return ((gradient.square().sum(dim=-1) + 1e-12).sqrt() - 1.0).square()


def mean_of(total: Tensor, count: Tensor) -> Tensor:
    """Return the sum of `total` over the sum of `count`, 0 if nothing was counted."""
    return total.sum() / count.sum().clamp(min=1.0)
