"""How noisy points are made from clean latents."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sds3d.guidance.branches import Branch, Point
from sds3d.priors.parametrisation import add_noise

if TYPE_CHECKING:
    from torch import Tensor

    from sds3d.priors.base import Prior

Ask = Callable[[Branch, Point], "Tensor"]
"""Asks the networks for one prediction [B, C, h, w] at a point; for noisers that walk along the model's own path."""


@dataclass(frozen=True)
class Noised:
    """Noisy points by name ("t" always among them) and the noise `epsilon` [B, C, h, w] they were made with."""

    points: dict[str, Point]
    epsilon: Tensor


class Noiser(ABC):
    """Makes the points a method looks at."""

    @abstractmethod
    def points(self, z0: Tensor, t: Tensor, epsilon: Tensor, prior: Prior, ask: Ask) -> Noised:
        """Return the noisy points of latents `z0` [B, C, h, w] for timesteps `t` [B] and drawn noise `epsilon`."""


class GaussianNoiser(Noiser):
    """Fresh noise: z_t = alpha_t z0 + sigma_t epsilon. Source: DreamFusion (arXiv 2209.14988), section 3."""

    def points(self, z0: Tensor, t: Tensor, epsilon: Tensor, prior: Prior, ask: Ask) -> Noised:
        """Return the single point "t"; `ask` is not used."""
        alpha, sigma = prior.alpha_sigma(t)
        return Noised({"t": Point(add_noise(z0, epsilon, alpha, sigma), t, alpha, sigma)}, epsilon)
