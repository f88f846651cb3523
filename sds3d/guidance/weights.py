"""Weights w(t): how much the residual of each noise level counts. Each returns [B, 1, 1, 1] float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sds3d.guidance.branches import Evidence
from sds3d.guidance.config import WeightName
from sds3d.priors.parametrisation import epsilon_to_clean

if TYPE_CHECKING:
    from torch import Tensor

DMD_FLOOR = 0.1
"""Added to the mean error in the "dmd" weight (theEricMa/TriplaneTurbo, its configuration files)."""


def sds(evidence: Evidence) -> Tensor:
    """Return sigma^2. Source: DreamFusion (arXiv 2209.14988) as threestudio reads it; also VSD, ASD, CSD."""
    return evidence.here.sigma**2


def uniform(evidence: Evidence) -> Tensor:
    """Return 1. Source: SJC (arXiv 2212.00774), DDS, Magic3D's pixel stage."""
    return evidence.here.sigma * 0.0 + 1.0


def fantasia3d(evidence: Evidence) -> Tensor:
    """Return alpha sigma^2. Source: Fantasia3D (arXiv 2303.13873) as threestudio offers it."""
    return evidence.here.alpha * evidence.here.sigma**2


def recon(evidence: Evidence) -> Tensor:
    """Return sigma / alpha, which turns a noise residual into z0 - x0. Source: MVDream, ISM. Limits: 13 at t = 980."""
    return evidence.here.sigma / evidence.here.alpha


def bsd(evidence: Evidence) -> Tensor:
    """Return alpha. Source: PlacidDreamer (arXiv 2407.13976)."""
    return evidence.here.alpha


def kl(evidence: Evidence) -> Tensor:
    """Return alpha / sigma, with which SDS is the exact gradient of KL(q(z_t | z0) || p_t)."""
    return evidence.here.alpha / evidence.here.sigma


def dmd(evidence: Evidence) -> Tensor:
    """Return sigma / (alpha (mean |z0 - x0(guided)| + 0.1)), mean per sample. Source: TriplaneTurbo, after DMD."""
    here = evidence.here
    clean = epsilon_to_clean(evidence.guided(), here.z, here.alpha, here.sigma)
    error = (evidence.z0 - clean).abs().mean(dim=(1, 2, 3), keepdim=True)
    return here.sigma / (here.alpha * (error + DMD_FLOOR))


def velocity(evidence: Evidence) -> Tensor:
    """Return 1 / alpha, which turns a noise residual into one of flow velocities. Source: RFDS (arXiv 2406.03293)."""
    return 1.0 / evidence.here.alpha


def velocity_random(evidence: Evidence) -> Tensor:
    """Return u / alpha, u = sigmoid of a standard normal draw for each sample. Source: RFDS's public code."""
    if evidence.uniform is None:
        return velocity(evidence)
    normal = normal_quantile(evidence.uniform)
    return velocity(evidence) * normal.sigmoid()[:, None, None, None]


def normal_quantile(uniform: Tensor) -> Tensor:
    """Return the standard normal quantiles of numbers in [0, 1)."""
    import torch

    quantiles: Tensor = torch.special.ndtri(uniform.clamp(1e-6, 1.0 - 1e-6))
    return quantiles


WEIGHTS: dict[WeightName, Callable[[Evidence], Tensor]] = {
    "sds": sds,
    "uniform": uniform,
    "fantasia3d": fantasia3d,
    "recon": recon,
    "bsd": bsd,
    "kl": kl,
    "dmd": dmd,
    "velocity": velocity,
    "velocity-random": velocity_random,
}
