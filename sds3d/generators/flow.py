"""Few-step flow distillation (MDT-dist): a student learns the average velocity of a frozen flow.

Notation: x_t = (1 - t) x0 + t noise with t in [0, 1] (1 is noise), velocity v = noise - x0. The student's average velocity V
satisfies x0 = x_t - t V(x_t, t), and V + t dV/dt = v*, with d/dt the total derivative along the teacher's velocity v*.

Ragged samples (a sparse latent: as many tokens as a shape has active cells) share these functions with dense ones. Their rows
are tokens [N, C], `t` [N] is the time of each token's sample, and `samples` [N] int64 says which sample a token belongs to. Only
the size that limits the derivative needs it; losses are means over all tokens, as sparse flows are trained (microsoft/TRELLIS).

Source: Zhou et al. 2025, "Few-step Flow for 3D Generation via Marginal-Data Transport Distillation" (arXiv 2509.04406) and
Zanue/MDT-dist. Deviations: sigma_min (1e-5 there) is 0; `norm` "limit", "rms" and "none" are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from sds3d.errors import ConfigError

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [N, ...], t [N]) -> velocity [N, ...]."""

Norm = Literal["none", "sample", "rms", "limit"]
NORM_FLOOR = 0.1
"""Added to the length of the derivative (Zanue/MDT-dist)."""
RMS_LIMIT = 1.0
"""Of a derivative, for data and noise of about that size: a straight flow has none, and d = (v* - V) / t where V is exact."""


def guided_velocity(prompted: Tensor, unprompted: Tensor, c: float) -> Tensor:
    """Return (1 + c) v(prompt) - c v(): guidance as this family counts it, c = s - 1."""
    return (1.0 + c) * prompted - c * unprompted


def spread(t: Tensor, like: Tensor) -> Tensor:
    """Return `t` [N] as [N, 1, ...], to be multiplied with `like`."""
    return t.reshape(-1, *([1] * (like.ndim - 1)))


def interpolated(clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Return x_t [N, ...] at times t [N]."""
    share = spread(t, clean)
    return (1.0 - share) * clean + share * noise


def said_and_derivative(
    student: Velocity, x: Tensor, t: Tensor, velocity: Tensor, h: float | None
) -> tuple[Tensor, Tensor]:
    """Return V(x, t), with a graph, and its total derivative along `velocity`.

    The derivative is a backward difference of width h without a graph, for which the student is asked once more, at
    (x - h velocity, t - h); or, for h None, exact by one JVP.
    """
    if h is None:
        both = torch.func.jvp(student, (x, t), (velocity, torch.ones_like(t)))
        return both[0], both[1]
    said = student(x, t)
    with torch.no_grad():
        return said, (said - student(x - h * velocity, t - h)) / h


def limited(derivative: Tensor, norm: Norm, samples: Tensor | None = None) -> Tensor:
    """Return the derivative divided by its size in each sample plus `NORM_FLOOR`: its length, its rms, or not at all.

    "limit" divides by the rms where that is above `RMS_LIMIT`, so that a derivative that is not in error is left alone.
    samples: [N] the sample of each row, for ragged ones; None: each row is one.
    """
    if norm == "none":
        return derivative
    rows = derivative.flatten(1)
    square = rows.square().sum(dim=1)
    count = torch.full_like(square, rows.shape[1])
    if samples is not None:  # there are at most as many samples as rows, so nothing has to be counted
        square, count = (torch.zeros_like(v).index_add(0, samples, v)[samples] for v in (square, count))
    size = (square if norm == "sample" else square / count).sqrt()
    if norm == "limit":
        return derivative / spread(size / RMS_LIMIT, derivative).clamp(min=1.0)
    return derivative / (spread(size, derivative) + NORM_FLOOR)


def matching_target(velocity: Tensor, derivative: Tensor, t: Tensor) -> Tensor:
    """Return what the student should say: v* - t d."""
    return velocity - spread(t, velocity) * derivative


def matching_loss(
    student: Velocity,
    velocity: Tensor,
    x: Tensor,
    t: Tensor,
    h: float | None,
    norm: Norm = "none",
    samples: Tensor | None = None,
) -> Tensor:
    """Return velocity matching: mean over samples of the mean of |V - sg(v* - t d)|^2.

    velocity: v* [N, ...] of the teacher at (x, t). No gradient passes through d, so the gradient is biased except at the
    solution, where loss and gradient are zero (up to O(h)). samples: of `limited`.
    """
    said, derivative = said_and_derivative(student, x, t, velocity, h)
    return (said - matching_target(velocity, limited(derivative, norm, samples).detach(), t)).square().mean()


@torch.no_grad()
def distillation_direction(
    student: Velocity,
    velocity: Tensor,
    x: Tensor,
    t: Tensor,
    h: float | None,
    norm: Norm = "none",
    samples: Tensor | None = None,
) -> Tensor:
    """Return q = V - (v* - t d) = u - v*, the student's own velocity u minus the teacher's, at re-noised samples x."""
    said, derivative = said_and_derivative(student, x, t, velocity, h)
    return said - matching_target(velocity, limited(derivative, norm, samples), t)


def one_step(student: Velocity, noise: Tensor) -> Tensor:
    """Return the sample noise - V(noise, 1), with a graph."""
    return noise - student(noise, torch.ones(len(noise), dtype=noise.dtype, device=noise.device))


def distillation_loss(
    student: Velocity,
    teacher: Velocity,
    noise: Tensor,
    fresh: Tensor,
    t: Tensor,
    h: float | None,
    norm: Norm = "none",
    samples: Tensor | None = None,
) -> Tensor:
    """Return velocity distillation: the gradient that reaches V(noise, 1) is 2 q over the number of its elements.

    Lowering V along q moves the sample along +q, from where the student's samples are dense to where the teacher's are. The
    student is its own fake score; alone this diverges, velocity matching keeps it honest.
    Args: noise, fresh: two independent normal draws, the sample's and the re-noising's. samples: of `limited`.
    """
    last = student(noise, torch.ones(len(noise), dtype=noise.dtype, device=noise.device))
    x = interpolated((noise - last).detach(), fresh, t)
    q = distillation_direction(student, teacher(x, t), x, t, h, norm, samples)
    return (q + last - last.detach()).square().mean()


def draw_times(count: int, h: float | None, generator: torch.Generator) -> Tensor:
    """Return [count] times h + (1 - h) sigmoid(N(1, 1)), logit-normal and dense near the noise."""
    drawn = torch.sigmoid(1.0 + torch.randn(count, generator=generator))
    return drawn if h is None else h + (1.0 - h) * drawn


def euler_times(steps: int, rescale: float = 1.0) -> Tensor:
    """Return [steps + 1] falling times from 1 to 0, r t / (1 + (r - 1) t) of equal steps.

    Raises: ConfigError without a step.
    """
    if steps < 1 or rescale <= 0:
        raise ConfigError(
            f"A flow is sampled in {steps} steps with rescaling {rescale:g}; both must be positive.", "steps"
        )
    t = torch.linspace(1.0, 0.0, steps + 1)
    return rescale * t / (1.0 + (rescale - 1.0) * t)


@torch.no_grad()
def euler(velocity: Velocity, noise: Tensor, steps: int, rescale: float = 1.0) -> Tensor:
    """Return samples of a flow by Euler steps x - (t - t') v. With an average velocity one step is the exact map."""
    x, times = noise, euler_times(steps, rescale)
    for now, then in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        x = x - (now - then) * velocity(x, torch.full((len(x),), now, dtype=x.dtype, device=x.device))
    return x


def gaussian_velocity(x: Tensor, t: Tensor, mean: float, std: float) -> Tensor:
    """Return v* of the flow to N(mean, std^2) in closed form: -m + (t - (1 - t) s^2) (x - (1 - t) m) / sigma_t^2."""
    t = spread(t, x)
    variance = (1.0 - t) ** 2 * std**2 + t**2
    return -mean + (t - (1.0 - t) * std**2) * (x - (1.0 - t) * mean) / variance


def gaussian_map(x: Tensor, t: Tensor, mean: float, std: float) -> Tensor:
    """Return the x0 that the flow to N(mean, std^2) takes x_t to: m + s (x - (1 - t) m) / sigma_t."""
    t = spread(t, x)
    variance = (1.0 - t) ** 2 * std**2 + t**2
    return mean + std * (x - (1.0 - t) * mean) / variance.sqrt()


def mixture_velocity(x: Tensor, t: Tensor, means: Tensor, stds: Tensor, weights: Tensor) -> Tensor:
    """Return v* [N, 1] of the flow to a one-dimensional mixture in closed form: responsibilities times `gaussian_velocity`."""
    time = spread(t, x)
    variance = (1.0 - time) ** 2 * stds**2 + time**2  # [N, K]
    offset = x - (1.0 - time) * means
    share = (weights.log() - 0.5 * offset.square() / variance - 0.5 * variance.log()).softmax(dim=1)
    each = -means + (time - (1.0 - time) * stds**2) * offset / variance
    return (share * each).sum(dim=1, keepdim=True)
