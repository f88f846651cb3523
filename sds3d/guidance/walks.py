"""Noisers that walk along the model's own path: inversion (ISM, SDI), a step back (CDS), several steps down (HiFA)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sds3d.guidance.branches import BASELINE, PROMPTED, UNPROMPTED, Branch, Clock, Point
from sds3d.guidance.noisers import FixedNoiser, GaussianNoiser, Noised, Noiser, Task, ddim_step

if TYPE_CHECKING:
    from torch import Tensor

AtClock = Callable[[Clock], float]
"""A number that depends on where the run is: a schedule with its clock."""


def guided_at(task: Task, point: Point, name: str, scale: float) -> tuple[Tensor, dict[Branch, Tensor]]:
    """Return u + scale (y - u) at `point` and the two predictions by branch; one call."""
    prompted, baseline = PROMPTED.at(name), BASELINE.at(name)
    known = task.ask({prompted: point, baseline: point})
    return known[baseline] + scale * (known[prompted] - known[baseline]), known


class IntervalNoiser(Noiser):
    """DDIM inversion without a prompt, in strides up to s = t - interval ("s"), then one step to t ("t").

    The walk begins at max(s - 5 stride, 0) from z0 with that level's little noise. The prediction at "s" is known.

    Source: ISM (arXiv 2311.11284), EnVision-Research/LucidDreamer, guidance/sd_utils.py. Deviation: the drawn noise has
    no offset by channel.
    """

    MOST_STRIDES = 5
    asks = ("0",)

    def __init__(self, interval: AtClock, stride: int) -> None:
        self.interval, self.stride = interval, stride

    def points(self, task: Task) -> Noised:
        """Return "s" and "t"."""
        t = task.draws.t
        gap = round(self.interval(task.clock))
        s = (t - gap).clamp(min=0)
        start = (s - self.MOST_STRIDES * self.stride).clamp(min=0)
        here = task.noised(task.z0, start, task.draws.epsilon)
        strides = min(-(-max(task.last_t - gap, 0) // self.stride), self.MOST_STRIDES)
        walk = UNPROMPTED.at("walk")
        for number in range(1, strides + 1):
            epsilon = task.ask({walk: here})[walk]
            here = _step(task, here, (start + number * self.stride).minimum(s), epsilon)
        here = Point(here.z, s, *task.prior.alpha_sigma(s))
        found = UNPROMPTED.at("s")
        known = task.ask({found: here})
        end = _step(task, here, t, known[found])
        epsilon = (end.z - end.alpha * task.z0) / end.sigma
        return Noised({"t": end, "s": here}, epsilon, known)


class InversionNoiser(Noiser):
    """DDIM inversion with (usually negative) guidance to a level a little above t; its noise is then used at t.

    Nodes: clean, 1, 1 + stride, 1 + 2 stride, ... below t, and t' = t + floor(u stride). Each step towards t' adds
    `eta` sqrt(posterior variance) of fresh noise.

    Source: SDI (arXiv 2405.15891) and its code in threestudio. Deviations: the first query is at t = 1 (there: at a
    negative timestep), and z0 is noised again at t (there: the latent of level t' is used together with timestep t).
    """

    asks = ("y", "u")

    def __init__(self, scale: AtClock, eta: float, stride: int) -> None:
        self.scale, self.eta, self.stride = scale, eta, stride

    def points(self, task: Task) -> Noised:
        """Return "t"."""
        t, length = task.draws.t, task.prior.num_timesteps
        goal = (t + (task.draws.uniform * self.stride).floor().long()).clamp(max=length - 1)
        levels = (t * 0 + 1, *task.prior.alpha_sigma(t * 0 + 1))
        here = Point(task.z0, levels[0], levels[1] * 0 + 1, levels[2] * 0)  # clean, but asked about as if at t = 1
        for number in range(max((task.last_t - 2) // self.stride + 1, 1) + 1):
            node = t * 0 + 1 + number * self.stride
            node = goal.where(node >= t, node) if number else node.minimum(goal)
            epsilon, _ = guided_at(task, here, "walk", self.scale(task.clock))
            here = self._noisy_step(task, here, node, epsilon, number)
        found = (here.z - here.alpha * task.z0) / here.sigma
        return Noised({"t": task.noised(task.z0, t, found)}, found)

    def _noisy_step(self, task: Task, here: Point, t: Tensor, epsilon: Tensor, number: int) -> Point:
        alpha, sigma = task.prior.alpha_sigma(t)
        variance = (here.sigma / sigma) ** 2 * (1.0 - (alpha / here.alpha) ** 2)
        spread = self.eta * variance.clamp(min=0.0).sqrt()
        straight = (sigma**2 - spread**2).clamp(min=0.0).sqrt()
        fresh = fresh_noise(task.draws.epsilon, number)
        return Point(ddim_step(epsilon, here, alpha, straight) + spread * fresh, t, alpha, sigma)


class StepBackNoiser(FixedNoiser):
    """One fixed noise at a later time "t"; the model's guided step leads back to the drawn time, "s".

    t = s + gap[0] + floor(u (gap[1] - gap[0])) below T. Both predictions at "t" are known.

    Source: Consistent3D (arXiv 2401.09050), sail-sg/Consistent3D; in its variance-exploding form the step is
    z~' = z~ + (sigma~' - sigma~) e, which is the DDIM step.
    """

    asks = ("y", "u")

    def __init__(self, scale: AtClock, gap: tuple[int, int], seed: int) -> None:
        super().__init__(seed)
        self.scale, self.gap = scale, gap

    def points(self, task: Task) -> Noised:
        """Return "t" and "s"."""
        s, (low, high) = task.draws.t, self.gap
        later = s + low + (task.draws.uniform * (high - low)).floor().long()
        epsilon = self.noise(task.z0)
        here = task.noised(task.z0, later.clamp(max=task.prior.num_timesteps - 1), epsilon)
        guided, known = guided_at(task, here, "t", self.scale(task.clock))
        return Noised({"t": here, "s": _step(task, here, s, guided)}, epsilon, known)


class DescentNoiser(GaussianNoiser):
    """Fresh noise at "t", then guided DDIM steps down to "end", from where one last step would be clean.

    The times are t, t (n - 1) / n, ... t / n. Source: HiFA (arXiv 2305.18766), which denoises in 4 steps.
    """

    asks = ("y", "u")

    def __init__(self, steps: int, scale: AtClock) -> None:
        self.steps, self.scale = steps, scale

    def points(self, task: Task) -> Noised:
        """Return "t" and "end" (the same point if there is one step)."""
        made = super().points(task)
        here = made.points["t"]
        for left in range(self.steps - 1, 0, -1):
            epsilon, _ = guided_at(task, here, "walk", self.scale(task.clock))
            here = _step(task, here, task.draws.t * left // self.steps, epsilon)
        made.points["end"] = here
        return made


def fresh_noise(epsilon: Tensor, number: int) -> Tensor:
    """Return further white noise [B, C, h, w] for step `number` of a walk: the drawn one, moved along by some elements.

    Moved noise is white again, each sample keeps its own, and a step draws the same amount whatever its method.
    Limits: with very small latents the noises of a long walk are the same numbers at other places.
    """
    return epsilon.flatten(1).roll(7 * number + 1, dims=1).view_as(epsilon)


def _step(task: Task, here: Point, t: Tensor, epsilon: Tensor) -> Point:
    alpha, sigma = task.prior.alpha_sigma(t)
    return Point(ddim_step(epsilon, here, alpha, sigma), t, alpha, sigma)
