"""Weights and closed forms behind the rules of generators (G5, G16, G20-G22, G24)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sds3d.cameras import turntable
from sds3d.generators.clean_weight import dmd_clean
from sds3d.generators.toys import ring_prior
from sds3d.guidance.branches import BASELINE, PROMPTED, Draws, Evidence, Point
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.weights import dmd
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import Prompt

MEAN, STD = 0.7, 0.3
OTHER_MEAN, OTHER_STD = 0.1, 0.9
"""Of what the prompt wants, and of everything."""


def evidence(scale: float = 1.0, t: int = 700, gap: float = 1.0) -> Evidence:
    draws = torch.Generator().manual_seed(0)
    z0, epsilon, delta = torch.randn(3, 2, 4, 8, 8, generator=draws, dtype=torch.float64)
    alpha = torch.full((2, 1, 1, 1), math.cos(t / 1000 * 1.5), dtype=torch.float64)
    sigma = (1 - alpha**2).sqrt()
    point = Point(alpha * z0 + sigma * epsilon, torch.full((2,), t), alpha, sigma)
    predictions = {PROMPTED: epsilon + gap * 0.3 * delta, BASELINE: epsilon}
    return Evidence(
        z0=z0,
        epsilon=epsilon,
        points={"t": point},
        predictions=predictions,
        step=0,
        total_steps=1,
        guidance_scale=scale,
    )


def test_published_and_public_weights_against_their_formulas() -> None:
    case = evidence()
    here = case.here
    guided = case.guided()
    error = (case.z0 - (here.z - here.sigma * guided) / here.alpha).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(dmd(case), here.sigma / here.alpha / (error + 0.1))
    own = (case.z0 - (case.z0 - here.sigma * guided) / here.alpha).abs().mean(dim=(1, 2, 3), keepdim=True)
    torch.testing.assert_close(dmd_clean(case), here.sigma / here.alpha / (own + 0.1))


def test_the_published_weight_normalises_and_the_public_one_hardly_does() -> None:
    once, twice = evidence(gap=1.0, t=990), evidence(gap=2.0, t=990)
    difference = once.guided() - once.epsilon
    first, second = dmd(once) * difference, dmd(twice) * 2.0 * difference
    assert float((second / first).mean()) == pytest.approx(1.0, abs=0.05)  # up to the 0.1 below
    public = [float(dmd_clean(evidence(t=t)).mean()) for t in (300, 600, 900)]
    assert all(0.6 < weight < 1.6 for weight in public)
    assert float(dmd(evidence(t=900)).mean()) > 1.5 * public[2]


def _nodes(count: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weights and nodes (noise of the generator, noise of the diffusion) with sum w f = E f."""
    x, w = np.polynomial.hermite_e.hermegauss(count)
    x, w = torch.from_numpy(x), torch.from_numpy(w / w.sum())
    grid, weight = torch.cartesian_prod(x, x), torch.cartesian_prod(w, w).prod(dim=1)
    return weight, grid[:, 0], grid[:, 1]


def _score(z: torch.Tensor, mean: float, std: float, alpha: float, sigma: float) -> torch.Tensor:
    return sigma * (z - alpha * mean) / (alpha**2 * std**2 + sigma**2)


@pytest.mark.parametrize("alpha", [0.9, 0.5])
def test_vsd_rests_at_the_prior_and_sds_shrinks_to_a_point(alpha: float) -> None:
    sigma, a, b = math.sqrt(1 - alpha**2), 0.8, 0.2
    weight, noise, epsilon = _nodes()

    def spread(std: float) -> float:
        return alpha**2 * std**2 + sigma**2

    z = alpha * (a * noise + b) + sigma * epsilon
    real, fake = _score(z, MEAN, STD, alpha, sigma), _score(z, b, a, alpha, sigma)
    vsd, sds = real - fake, real - epsilon
    assert float((weight * vsd).sum()) == pytest.approx(sigma * alpha * (b - MEAN) / spread(STD), abs=1e-10)
    expected = sigma * alpha * a * (1 / spread(STD) - 1 / spread(a))
    assert float((weight * vsd * noise).sum()) == pytest.approx(expected, abs=1e-10)
    assert float((weight * sds).sum()) == pytest.approx(sigma * alpha * (b - MEAN) / spread(STD), abs=1e-10)
    collapse = float((weight * sds * noise).sum())
    assert collapse == pytest.approx(sigma * alpha * a / spread(STD), abs=1e-10) and collapse > 0
    z = alpha * (STD * noise + MEAN) + sigma * epsilon
    rest = _score(z, MEAN, STD, alpha, sigma) - _score(z, MEAN, STD, alpha, sigma)
    assert float((weight * rest * noise).sum()) == 0.0


def test_with_one_particle_vsd_is_sds() -> None:
    alpha, sigma = 0.6, 0.8
    weight, _, epsilon = _nodes()
    z = alpha * 0.4 + sigma * epsilon
    torch.testing.assert_close(_score(z, 0.4, 0.0, alpha, sigma), epsilon, atol=1e-12, rtol=0)
    assert weight.sum() == pytest.approx(1.0)


def test_the_shifted_teacher_attracts_early_and_repels_late() -> None:
    def gradient(t: float, later: float, x: float = MEAN + 1.0) -> float:
        weight, _, epsilon = _nodes()
        values = []
        for sigma in (t, later):
            alpha = math.sqrt(1 - sigma**2)
            values.append(_score(alpha * x + sigma * epsilon, MEAN, STD, alpha, sigma))
        return float((weight * (values[0] - values[1])).sum())

    def height(sigma: float) -> float:
        alpha = math.sqrt(1 - sigma**2)
        return sigma * alpha / (alpha**2 * STD**2 + sigma**2)

    assert gradient(0.8, 0.9) == pytest.approx(height(0.8) - height(0.9), abs=1e-10)
    peak = STD / math.sqrt(1 + STD**2)  # where sigma / alpha = s
    assert gradient(0.8, 0.9) > 0 and gradient(0.5 * peak, 0.7 * peak) < 0


def _csd_gradient(x: float, t: int, nodes: int = 8) -> float:
    """Return the mean gradient of the row `csd` at the point x, by quadrature over the noise (exact: it is linear in it)."""
    levels = ExactPrior(
        {
            "": Mixture.gaussian(torch.full((1, 1, 1), OTHER_MEAN), OTHER_STD),
            "wanted": Mixture.gaussian(torch.full((1, 1, 1), MEAN), STD),
        }
    )
    row = METHODS["csd"]
    config = row.config.model_validate({"method": "csd", "weight": "uniform", "negative": 0})
    guide = Guidance(levels, config, 1)
    places, weights = np.polynomial.hermite_e.hermegauss(nodes)
    epsilon = torch.from_numpy(places).float().view(-1, 1, 1, 1)
    draws = Draws(t=torch.full((nodes,), t), epsilon=epsilon, uniform=torch.zeros(nodes))
    prompt = Prompt(text="wanted", view_dependent=False)
    gradient, _ = guide.gradient(torch.full_like(epsilon, x), prompt, turntable(nodes, 8), 0, draws)
    return float((torch.from_numpy(weights / weights.sum()) * gradient.flatten().double()).sum())


@pytest.mark.parametrize(("t", "figure"), [(100, 0.874), (500, 2.96)])
def test_the_classifier_direction_rests_beyond_the_prompts_mean(t: int, figure: float) -> None:
    """The rest point is m_y + (m_y - m) D(s_y) / (alpha^2 (s^2 - s_y^2)), D(v) = alpha^2 v^2 + sigma^2."""
    alpha, sigma = (float(x) for x in ring_prior().alpha_sigma(torch.tensor([t])))
    wide = alpha**2 * STD**2 + sigma**2
    rest = MEAN + (MEAN - OTHER_MEAN) * wide / (alpha**2 * (OTHER_STD**2 - STD**2))
    assert rest == pytest.approx(figure, abs=0.003)
    near, far = _csd_gradient(MEAN, t), _csd_gradient(rest + 1.0, t)
    assert near < 0 < far  # descending moves on from the prompt's mean, and back from beyond the rest point
    slope = (far - near) / (rest + 1.0 - MEAN)
    assert MEAN - near / slope == pytest.approx(rest, rel=1e-4)
    assert _csd_gradient(rest, t) == pytest.approx(0.0, abs=1e-5 * abs(slope) * rest)
