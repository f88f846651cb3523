"""The weight of TriplaneTurbo's public code, which differs from the published formula. For comparison only."""

from __future__ import annotations

from torch import Tensor

from sds3d.guidance.branches import Evidence
from sds3d.guidance.weights import DMD_FLOOR
from sds3d.priors.parametrisation import epsilon_to_clean


def dmd_clean(evidence: Evidence) -> Tensor:
    """Return sigma / (alpha (mean |z0 - x0| + 0.1)) with x0 = (z0 - sigma e) / alpha, z0 where `weights.dmd` has z_t.

    Then the mean is about sigma / alpha times that of |e|, so the weight is almost 1 whatever the prediction: uniform.
    Source: theEricMa/TriplaneTurbo (facts only).
    """
    here = evidence.here
    clean = epsilon_to_clean(evidence.guided(), evidence.z0, here.alpha, here.sigma)
    error = (evidence.z0 - clean).abs().mean(dim=(1, 2, 3), keepdim=True)
    return here.sigma / (here.alpha * (error + DMD_FLOOR))
