"""The protocol of networks that are trained beside a prior to know how the present renders look."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sds3d.priors.base import Prior, Query, split_like, stack_queries
from sds3d.priors.parametrisation import Parametrisation, output_to_epsilon


class ScoreNetwork(nn.Module, ABC):
    """A network over the prior's latents; its parameters are float32 and all of them are trained.

    Attributes:
        prior: the frozen prior it stands on; not a submodule, so not in `state_dict`.
        parametrisation: what its output means.
    """

    parametrisation: Parametrisation

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self._prior = (prior,)  # in a tuple, so that a prior which is a module does not become a submodule

    @property
    def prior(self) -> Prior:
        """The frozen prior it stands on."""
        return self._prior[0]

    @abstractmethod
    def output(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the network's own output [B, C, h, w] float32 for each query, with a graph, from one network call."""

    @torch.no_grad()
    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise prediction (epsilon form, float32, no graph) of each query, from one network call."""
        outputs = torch.cat(self.output(queries))
        asked = stack_queries(queries)
        alpha, sigma = self.prior.alpha_sigma(asked.t)
        epsilon = output_to_epsilon(outputs, asked.z_t.float(), alpha, sigma, self.parametrisation)
        return split_like(epsilon, queries)
