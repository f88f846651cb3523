"""Flow priors (T18): conversions, RFDS as a weight, the shifted table of SD3."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.guidance.branches import Draws
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.times import window
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.priors.noise_levels import flow_levels
from sds3d.priors.parametrisation import PARAMETRISATIONS, epsilon_to_clean, epsilon_to_output, output_to_epsilon
from sds3d.prompts import Prompt

SHAPE = (3, 4, 4)
PLAIN = Prompt(text="y", view_dependent=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def prior() -> ExactPrior:
    mixtures = {t: Mixture.gaussian(torch.full(SHAPE, m), 0.5) for t, m in (("y", 0.7), ("", -0.2))}
    return ExactPrior(mixtures, parametrisation="flow", levels=flow_levels(shift=3.0))


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_outputs_and_noise_convert_both_ways(kind: str) -> None:
    alpha, sigma = (torch.tensor(0.3), torch.tensor(0.7)) if kind == "flow" else (torch.tensor(0.6), torch.tensor(0.8))
    z, output = draw(2, *SHAPE), draw(2, *SHAPE, seed=1)
    epsilon = output_to_epsilon(output, z, alpha, sigma, kind)  # type: ignore[arg-type]
    torch.testing.assert_close(epsilon_to_output(epsilon, z, alpha, sigma, kind), output, atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]


def test_flow_identities() -> None:
    """eps' - eps = (1 - sigma)(v' - v) and z0 - x0 = sigma (v' - v)."""
    z0, epsilon, v = draw(2, *SHAPE), draw(2, *SHAPE, seed=1), draw(2, *SHAPE, seed=2)
    sigma = torch.tensor(0.35)
    z = (1 - sigma) * z0 + sigma * epsilon
    predicted = output_to_epsilon(v, z, 1 - sigma, sigma, "flow")
    torch.testing.assert_close(predicted - epsilon, (1 - sigma) * (v - (epsilon - z0)), atol=1e-5, rtol=1e-5)
    clean = epsilon_to_clean(predicted, z, 1 - sigma, sigma)
    torch.testing.assert_close(z0 - clean, sigma * (v - (epsilon - z0)), atol=1e-5, rtol=1e-5)


def test_rfds_is_sds_in_velocities(prior: ExactPrior) -> None:
    """g = v_s - (eps - z0), from the exact velocity of the Gaussian, is SDS with weight 1 / (1 - sigma)."""
    z0, scale = draw(3, *SHAPE), 7.0
    t = torch.tensor([19, 300, 699])
    draws = Draws(t=t, epsilon=draw(3, *SHAPE, seed=1), uniform=torch.full((3,), 0.5))
    config = METHODS["rfds"].config.model_validate({"guidance_scale": scale, "weight": "velocity"})
    found = Guidance(prior, config, 10).gradient(z0, PLAIN, turntable(3, 4), 0, draws)[0]
    alpha, sigma = prior.alpha_sigma(t)
    z = alpha * z0 + sigma * draws.epsilon
    velocities = []
    for mean in (0.7, -0.2):
        clean = mean + alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * (z - alpha * mean)
        velocities.append((z - clean) / sigma)
    y, u = velocities
    expected = u + scale * (y - u) - (draws.epsilon - z0)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)
    sds = METHODS["sds"].config.model_validate({"guidance_scale": scale, "weight": "uniform"})
    plain = Guidance(prior, sds, 10).gradient(z0, PLAIN, turntable(3, 4), 0, draws)[0]
    torch.testing.assert_close(found, plain / (1 - sigma), atol=1e-3, rtol=1e-3)


def test_the_window_of_rfds_is_that_of_the_shifted_falling_table() -> None:
    """Index 300 of diffusers' falling table is sigma 0.875, index 980 is 0.058; ours rises and ends there."""
    config = METHODS["rfds"].config()
    low, high = window(config.t_min.at(0, 1), config.t_max.at(0, 1), 1000)
    sigma = flow_levels(shift=3.0).sigma
    assert sigma[high].item() == pytest.approx(0.875, abs=1e-3) and sigma[low].item() == pytest.approx(0.0577, abs=1e-3)
