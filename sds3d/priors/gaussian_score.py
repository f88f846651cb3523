"""The simplest score network: one Gaussian whose mean and spread are trained. For proofs with exact priors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sds3d.priors.base import POSE_SIZE, Prior, Query, split_like, stack_queries
from sds3d.priors.score_network import ScoreNetwork


class GaussianScoreNetwork(ScoreNetwork):
    """N(mean + shift of the camera, spread^2 I) over latents of `shape` (C, h, w), whatever the text.

    The trained parameters are `mean`, `log_spread` and `camera` [16, C, h, w]; at first the standard normal.
    """

    def __init__(self, prior: Prior, shape: tuple[int, ...]) -> None:
        super().__init__(prior)
        self.parametrisation = "epsilon"
        self.mean = nn.Parameter(torch.zeros(shape, device=prior.device))
        self.log_spread = nn.Parameter(torch.zeros((), device=prior.device))
        self.camera = nn.Parameter(torch.zeros(POSE_SIZE, *shape, device=prior.device))

    def output(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return sigma (z_t - alpha mean) / (alpha^2 spread^2 + sigma^2), the noise a Gaussian explains."""
        asked = stack_queries(queries)
        alpha, sigma = self.prior.alpha_sigma(asked.t)
        mean = self.mean.expand_as(asked.z_t)
        if asked.pose is not None:
            mean = mean + torch.einsum("bd,dchw->bchw", asked.pose, self.camera)
        spread = alpha**2 * (2.0 * self.log_spread).exp() + sigma**2
        return split_like(sigma * (asked.z_t - alpha * mean) / spread, queries)
