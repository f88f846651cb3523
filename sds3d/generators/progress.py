"""From noise to a clean latent in K large steps: the loop that training and inference share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sds3d.errors import ConfigError
from sds3d.generators.base import LatentGenerator
from sds3d.priors.parametrisation import add_noise

Renoise = Literal["fresh", "predicted"]


def turn_times(turns: int, num_timesteps: int) -> tuple[int, ...]:
    """Return K falling timesteps, evenly spaced from the last: 999, 749, 499, 249 for K = 4 of 1000.

    Raises: ConfigError if there are not between 1 and T of them. Source: theEricMa/TriplaneTurbo, tianweiy/DMD2.
    """
    if not 1 <= turns <= num_timesteps:
        raise ConfigError(
            f"The generator shall take {turns} turns, but 1 to {num_timesteps} are possible. Give such a number.",
            path="turns",
        )
    return tuple(num_timesteps - 1 - turn * num_timesteps // turns for turn in range(turns))


@dataclass(frozen=True)
class Turn:
    """One step of the loop: its number `k`, its timestep `t`, and `clean` [B * slots, C, h, w], with a graph or not."""

    k: int
    t: int
    clean: Tensor


def renoised(
    clean: Tensor,
    before: tuple[Tensor, Tensor, Tensor] | None,
    alpha: Tensor,
    sigma: Tensor,
    fresh: Tensor,
    how: Renoise,
) -> Tensor:
    """Return the point of the next turn.

    Args:
        clean: [..] what the turn before predicted (at the first turn: noise, which stays exactly N(0, I)).
        before: (z, alpha, sigma) of the turn before, or None at the first.
        fresh: noise. how: "fresh" adds it; "predicted" adds the noise that was seen in z (the deterministic DDIM step).
    """
    if how == "fresh" or before is None:
        return add_noise(clean, fresh, alpha, sigma)
    z, old_alpha, old_sigma = before
    return add_noise(clean, (z - old_alpha * clean) / old_sigma, alpha, sigma)


def run_turns(
    generator: LatentGenerator,
    text: Tensor,
    times: tuple[int, ...],
    draws: torch.Generator,
    *,
    trains: Callable[[int], bool] = lambda k: False,
    renoise: Renoise = "fresh",
) -> Iterator[Turn]:
    """Yield the turns of B objects; a turn has a graph exactly where `trains(k)`, and no graph crosses turns.

    The detached clean latent is the only link between turns, so a backward pass inside the loop frees the turn's graph, and
    memory is that of one turn. Source: progressive rendering distillation (arXiv 2503.21694), section 1.3 of its code.

    Args:
        text: [B, rows, dim]. draws: CPU generator; noise is drawn for every turn whatever `renoise` is.
    """
    objects = len(text)
    clean = generator.noise(objects, draws).to(text.device)
    before = None
    for k, t in enumerate(times):
        alpha, sigma = generator.alpha_sigma(t)
        z = renoised(clean, before, alpha, sigma, generator.noise(objects, draws).to(text.device), renoise)
        with torch.set_grad_enabled(trains(k)):
            predicted = generator.predict_clean(z, t, text)
        yield Turn(k, t, predicted)
        clean, before = predicted.detach(), (z, alpha, sigma)


@torch.no_grad()
def sample(
    generator: LatentGenerator, text: Tensor, turns: int, draws: torch.Generator, renoise: Renoise = "predicted"
) -> Tensor:
    """Return the clean latents [B * slots, C, h, w] of the last turn. There is no further step to t = 0, and no guidance."""
    clean = torch.empty(0)
    for turn in run_turns(generator, text, turn_times(turns, len(generator.levels)), draws, renoise=renoise):
        clean = turn.clean
    return clean
