"""Training of a few-step student of a flow, and the one-dimensional students that show what the two losses do."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sds3d.config.generator import FlowRecipe
from sds3d.generators import flow
from sds3d.generators.fake import reseed

Data = Callable[[int, torch.Generator], Tensor]
"""(count, generator) -> clean samples [count, ...]."""


def flow_losses(
    recipe: FlowRecipe,
    student: flow.Velocity,
    teacher: flow.Velocity,
    clean: Tensor,
    draws: torch.Generator,
    samples: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return (loss to descend, matching loss alone) of one batch of clean samples [N, ...].

    student, teacher: velocities, guided and told already. draws: CPU generator of noise and times. samples: [N] the sample of each
    row where rows are tokens of ragged samples, numbered from 0; None: a row is a sample.
    """
    h = recipe.step if recipe.derivative == "discrete" else None
    noise, again, fresh = (torch.randn(clean.shape, generator=draws).to(clean) for _ in range(3))
    t = flow.draw_times(len(clean), h, draws).to(clean)
    t = t if samples is None else t[samples]
    x = flow.interpolated(clean, noise, t)
    with torch.no_grad():
        velocity = teacher(x, t)
    matching = flow.matching_loss(student, velocity, x, t, h, recipe.norm, samples)
    loss = recipe.matching_weight * matching
    if recipe.distillation_weight:
        distilled = flow.distillation_loss(student, teacher, again, fresh, t, h, recipe.norm, samples)
        loss = loss + recipe.distillation_weight * distilled
    return loss, matching.detach()


def rate_at(recipe: FlowRecipe, step: int) -> float:
    """Return the learning rate of `step`: constant, or half a cosine from the recipe's to 0."""
    if recipe.decay == "none":
        return recipe.learning_rate
    return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * step / recipe.steps))


def distil_flow(
    recipe: FlowRecipe, student: nn.Module, teacher: flow.Velocity, data: Data, draws: torch.Generator
) -> list[float]:
    """Train `student` (x, t) -> average velocity by velocity matching and velocity distillation; return the matching losses.

    teacher: the frozen velocity, guided already. data: clean samples, for matching only. draws: CPU generator of everything.
    """
    optimiser = torch.optim.Adam(student.parameters(), recipe.learning_rate)
    losses: list[Tensor] = []
    for step in range(recipe.steps):
        loss, matching = flow_losses(recipe, student, teacher, data(recipe.batch, draws), draws)
        optimiser.param_groups[0]["lr"] = rate_at(recipe, step)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        losses.append(matching)
    return torch.stack(losses).tolist()  # type: ignore[no-any-return]


class AffineStudent(nn.Module):
    """v = A(t) x + B(t) in one dimension, A and B one network of the time: it can hold a Gaussian flow's map exactly."""

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.network = nn.Sequential(
            nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 2)
        )
        reseed(self, generator)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return [N, 1]."""
        slope, shift = self.network(2.0 * t[:, None] - 1.0).split(1, dim=1)
        return slope * x + shift  # type: ignore[no-any-return]


def one_step_error(
    student: flow.Velocity, exact: Callable[[Tensor], Tensor], count: int = 4096, seed: int = 9
) -> float:
    """Return the root mean square distance of one-step samples [N, 1] from where the teacher's flow takes their noise."""
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return float((flow.one_step(student, noise) - exact(noise)).square().mean().sqrt())


def mixture_quantile(probability: Tensor, means: Tensor, stds: Tensor, weights: Tensor) -> Tensor:
    """Return [N, 1] quantiles of a one-dimensional mixture by bisection: the exact map of its flow is this of Phi(noise)."""
    low, high = torch.full_like(probability, -20.0), torch.full_like(probability, 20.0)
    for _ in range(60):
        middle = 0.5 * (low + high)
        below = (weights * torch.special.ndtr((middle - means) / stds)).sum(dim=1, keepdim=True) < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return 0.5 * (low + high)
