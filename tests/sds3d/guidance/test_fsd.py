"""Flow score distillation: one noise, falling times, and the relation to DDIM that gives it its name."""

from __future__ import annotations

import torch

from sds3d.cameras import turntable
from sds3d.guidance.branches import Draws, Point
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import Prompt

SHAPE, MEAN, STD = (3, 4, 4), 0.5, 0.6
PLAIN = Prompt(text="y", view_dependent=False)


def guide(steps: int, scale: float = 1.0) -> Guidance:
    mixtures = {text: Mixture.gaussian(torch.full(SHAPE, MEAN), STD) for text in ("y", "")}
    config = METHODS["fsd"].config.model_validate({"guidance_scale": scale, "weight": "uniform"})
    return Guidance(ExactPrior(mixtures), config, steps)


def test_noise_is_fixed_and_times_fall() -> None:
    method = guide(50)
    z0 = torch.zeros(2, *SHAPE)
    times, noises = [], []
    for step in range(50):
        draws = method.draw(z0, step, torch.Generator().manual_seed(step))
        times.append(draws.t.unique().item())
        noises.append(method.distil(z0, PLAIN, turntable(2, 4), step, draws)[2].epsilon)
    assert times == sorted(times, reverse=True) and times[0] == 980 and times[-1] < 60
    assert all(torch.equal(noise, noises[0]) for noise in noises)


def test_descending_with_the_right_steps_is_the_sampler() -> None:
    """z0' = z0 - (sigma_t / alpha_t - sigma_s / alpha_s) r moves alpha z0 + sigma eps along the probability flow."""
    method = guide(10)
    prior, z0 = method.prior, torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(3))
    start, end, stride = 900, 20, 2
    seen: list[Point] = []
    for t in range(start, end, -stride):
        draws = Draws(t=torch.tensor([t]), epsilon=torch.zeros(1, *SHAPE), uniform=torch.zeros(1))
        residual, _, evidence = method.distil(z0, PLAIN, turntable(1, 4), 0, draws)
        seen.append(evidence.here)
        alpha, sigma = prior.alpha_sigma(torch.tensor([t - stride]))
        z0 = z0 - (evidence.here.sigma / evidence.here.alpha - sigma / alpha) * residual
    first = seen[0]
    spreads = [(a**2 * STD**2 + s**2).sqrt() for a, s in ((alpha, sigma), (first.alpha, first.sigma))]
    exact = alpha * MEAN + spreads[0] / spreads[1] * (first.z - first.alpha * MEAN)
    torch.testing.assert_close(alpha * z0 + sigma * evidence.epsilon, exact, atol=0.02, rtol=0.02)
