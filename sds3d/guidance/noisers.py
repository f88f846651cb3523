"""How noisy points are made from clean latents: fresh noise, the same noise again, noise found by inversion."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sds3d.guidance.branches import PROMPTED, Branch, Clock, Draws, Point
from sds3d.priors.parametrisation import add_noise, epsilon_to_clean
from sds3d.prompts import TextRole

if TYPE_CHECKING:
    from torch import Tensor

    from sds3d.priors.base import Prior

Ask = Callable[[Mapping[Branch, Point]], "dict[Branch, Tensor]"]
"""Asks the networks for predictions [B, C, h, w] at points, in one call a network; for noisers that walk along the
model's own path."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a noiser gets.

    Args:
        z0: [B, C, h, w] latents of the render.
        draws: random numbers of the step.
        prior: for its noise levels.
        ask: asks the networks.
        clock: where the run is.
        last_t: the largest of `draws.t` as a number, so that walks know their length without waiting for the device.
        source: [B, C, h, w] latents of the picture to be edited, or None.
    """

    z0: Tensor
    draws: Draws
    prior: Prior
    ask: Ask
    clock: Clock
    last_t: int
    source: Tensor | None = None

    def point(self, z: Tensor, t: Tensor) -> Point:
        """Return latents `z` as the point at timesteps `t`."""
        return Point(z, t, *self.prior.alpha_sigma(t))

    def noised(self, z0: Tensor, t: Tensor, epsilon: Tensor) -> Point:
        """Return alpha_t z0 + sigma_t epsilon."""
        alpha, sigma = self.prior.alpha_sigma(t)
        return Point(add_noise(z0, epsilon, alpha, sigma), t, alpha, sigma)


@dataclass(frozen=True)
class Noised:
    """Noisy points by name ("t" always among them), the noise `epsilon` [B, C, h, w] in "t", predictions already known.

    `known` are the answers the noiser has got on its way to points of the result, so that nobody asks for them again.
    """

    points: dict[str, Point]
    epsilon: Tensor
    known: dict[Branch, Tensor] = field(default_factory=dict)


class Noiser(ABC):
    """Makes the points a method looks at. `asks` are the roles of the texts it asks the prior about by itself."""

    asks: tuple[TextRole, ...] = ()

    @abstractmethod
    def points(self, task: Task) -> Noised:
        """Return the noisy points of `task.z0`."""


class GaussianNoiser(Noiser):
    """Fresh noise: z_t = alpha_t z0 + sigma_t epsilon. Source: DreamFusion (arXiv 2209.14988), section 3.

    If there is a picture to be edited, the point "src" is that picture with the same noise (DDS, arXiv 2304.07090).
    """

    def points(self, task: Task) -> Noised:
        """Return "t", and "src" where there is a source."""
        t, epsilon = task.draws.t, task.draws.epsilon
        points = {"t": task.noised(task.z0, t, epsilon)}
        if task.source is not None:
            points["src"] = task.noised(task.source, t, epsilon)
        return Noised(points, epsilon)


class EarlierNoiser(GaussianNoiser):
    """Fresh noise, and the levels one and `stride` timesteps earlier ("back1", "back") for posterior means (PDS)."""

    def __init__(self, stride: int) -> None:
        self.stride = stride

    def points(self, task: Task) -> Noised:
        """Return "t", "src", "back1" and "back"; times do not go below 0."""
        made = super().points(task)
        for name, distance in (("back1", 1), ("back", self.stride)):
            made.points[name] = task.noised(task.z0, (task.draws.t - distance).clamp(min=0), task.draws.epsilon)
        return made


class ShiftedNoiser(GaussianNoiser):
    """Fresh noise at "t" and the same noise a little later at "+".

    t+ = t + floor(u reach (t - t_min)) inside [1, T - 1], u the uniform draw or 1.
    Source: ScaleDreamer (arXiv 2407.02040), theEricMa/ScaleDreamer.
    """

    def __init__(self, reach: float, is_random: bool, t_min: Callable[[Clock], float]) -> None:
        self.reach, self.is_random, self.t_min = reach, is_random, t_min

    def points(self, task: Task) -> Noised:
        """Return "t" and "+"."""
        made = super().points(task)
        t, length = task.draws.t, task.prior.num_timesteps
        share = task.draws.uniform if self.is_random else 1.0
        shift = (share * self.reach * (t - self.t_min(task.clock) * length)).floor().clamp(min=0).long()
        made.points["+"] = task.noised(task.z0, (t + shift).clamp(1, length - 1), task.draws.epsilon)
        return made


class ReversedNoiser(Noiser):
    """Fresh noise replaced by the noise the prompted model sees in it: one step of inversion of a flow.

    Source: RFDS-Rev (arXiv 2406.03293); that its step equals eps' = prediction(z_t) is exact for flows. Works with any
    prior.
    """

    asks = ("y",)

    def points(self, task: Task) -> Noised:
        """Return "t", made with the predicted noise, which is the `epsilon` of the result."""
        t = task.draws.t
        first = task.noised(task.z0, t, task.draws.epsilon)
        asked = PROMPTED.at("first")
        epsilon = task.ask({asked: first})[asked]
        return Noised({"t": task.noised(task.z0, t, epsilon)}, epsilon)


class FixedNoiser(Noiser):
    """One noise for the whole run and for all samples, the same for every step of a run.

    Args:
        seed: which noise.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._noise: Any = None

    def noise(self, z0: Tensor) -> Tensor:
        """Return the noise, [B, C, h, w] like `z0`."""
        import torch

        if self._noise is None or self._noise.shape != z0.shape[1:]:
            generator = torch.Generator().manual_seed(self.seed)
            self._noise = torch.randn(z0.shape[1:], generator=generator)
        noise: Tensor = self._noise.to(z0.device).expand_as(z0)
        return noise

    def points(self, task: Task) -> Noised:
        """Return "t"."""
        epsilon = self.noise(task.z0)
        return Noised({"t": task.noised(task.z0, task.draws.t, epsilon)}, epsilon)


def ddim_step(epsilon: Tensor, here: Point, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the latents at level (alpha, sigma) on the straight way from `here` along the prediction `epsilon`.

    Towards more noise this is inversion. Source: DDIM (arXiv 2010.02502), equation 12 with zero variance.
    """
    return alpha * epsilon_to_clean(epsilon, here.z, here.alpha, here.sigma) + sigma * epsilon
