"""Points on the model's own path: ISM (T13), SDI, consistency (T23), HiFA, RFDS-Rev."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.guidance.branches import PROMPTED, Draws, Evidence, Point
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.noisers import FixedNoiser, ddim_step
from sds3d.guidance.walks import fresh_noise
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import Prompt

SHAPE, TAU = (3, 4, 4), 0.6
PLAIN = Prompt(text="y", view_dependent=False)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(means: tuple[float, float] = (0.0, 0.0), std: float = TAU, **settings: Any) -> ExactPrior:
    mixtures = {t: Mixture.gaussian(torch.full(SHAPE, m), std) for t, m in zip(("y", ""), means, strict=True)}
    return ExactPrior(mixtures, **settings)


def distil(
    prior: ExactPrior, name: str, z0: Tensor, t: list[int], step: int = 0, uniform: float = 0.5, **settings: Any
) -> tuple[Tensor, Evidence, Guidance]:
    config = METHODS[name].config.model_validate(settings)
    guide = Guidance(prior, config, 10)
    draws = Draws(t=torch.tensor(t), epsilon=draw(len(t), *SHAPE, seed=2), uniform=torch.full((len(t),), uniform))
    gradient, _, evidence = guide.distil(z0, PLAIN, turntable(len(t), 4), step, draws)
    return gradient, evidence, guide


def levels(prior: ExactPrior, t: int) -> tuple[float, float]:
    alpha, sigma = prior.alpha_sigma(torch.tensor([t]))
    return alpha.item(), sigma.item()


def gain(prior: ExactPrior, here: int, there: int, mean: float = 0.0) -> tuple[float, float]:
    """One DDIM step of a Gaussian N(mean, TAU^2) is affine: z' = k z + c."""
    (a, s), (b, r) = levels(prior, here), levels(prior, there)
    spread = a**2 * TAU**2 + s**2
    slope = s / spread  # epsilon = slope (z - a mean)
    k = b * (1 - s * slope) / a + r * slope
    return k, b * s * slope * mean - r * slope * a * mean


@pytest.mark.parametrize(("t", "interval"), [(600, 100), (500, 50), (150, 100), (60, 80), (980, 0)])
def test_ism_walks_the_grid_of_the_closed_form(t: int, interval: int) -> None:
    """T13: every inversion step of a Gaussian is a known affine map; nodes 0, 200, 400, ..., t - interval, t."""
    prior, mean = gaussian((0.3, 0.3)), 0.3
    z0 = draw(1, *SHAPE, seed=1)
    _, evidence, _ = distil(prior, "ism", z0, [t], interval=interval)
    s = max(t - interval, 0)
    nodes = [0, *range(200, s, 200), s]
    alpha, sigma = levels(prior, 0)
    z = alpha * z0 + sigma * draw(1, *SHAPE, seed=2)
    for here, there in itertools.pairwise(nodes):
        k, c = gain(prior, here, there, mean)
        z = k * z + c
    torch.testing.assert_close(evidence.points["s"].z, z, atol=1e-3, rtol=1e-3)
    k, c = gain(prior, s, t, mean)
    torch.testing.assert_close(evidence.here.z, k * z + c, atol=1e-3, rtol=1e-3)
    assert evidence.points["s"].t.item() == s and evidence.here.t.item() == t


def test_ism_pulls_to_the_mean_without_noise() -> None:
    """r > 0 above the mean, nearly as the exact inversion says, and the same for every drawn noise."""
    prior, z0 = gaussian(), torch.full((1, *SHAPE), 1.7)
    gradient, _, _ = distil(
        prior, "ism", z0, [600], interval=100, guidance_scale=1, gain=1, stride=10, weight="uniform"
    )
    (a, s), (b, r) = levels(prior, 600), levels(prior, 500)
    exact = 1.7 / TAU * (s / (a**2 * TAU**2 + s**2) ** 0.5 - r / (b**2 * TAU**2 + r**2) ** 0.5)
    assert gradient.mean().item() > 0
    fine, _, _ = distil(prior, "ism", z0, [45], interval=5, guidance_scale=1, gain=1, stride=10, weight="uniform")
    (a, s), (b, r) = levels(prior, 45), levels(prior, 40)
    expected = 1.7 / TAU * (s / (a**2 * TAU**2 + s**2) ** 0.5 - r / (b**2 * TAU**2 + r**2) ** 0.5)
    assert exact > 0 and fine.mean().item() == pytest.approx(expected, rel=0.15)


def test_ism_vanishes_without_interval_guidance_and_prompt() -> None:
    gradient, _, _ = distil(gaussian(), "ism", draw(2, *SHAPE), [300, 300], interval=0, guidance_scale=1)
    assert gradient.abs().max() < 1e-5


def test_ism_never_walks_more_than_five_strides() -> None:
    prior = gaussian()
    calls: list[int] = []
    predict = prior.predict
    prior.predict = lambda queries: (calls.append(len(queries)), predict(queries))[1]  # type: ignore[method-assign]
    _, evidence, _ = distil(prior, "ism", draw(1, *SHAPE), [980], interval=50, stride=100)
    assert len(calls) == 5 + 1 + 1
    alpha, sigma = levels(prior, 430)  # 930 - 5 x 100
    assert evidence.here.t.item() == 980 and sigma > 0.5 and alpha < 0.9


# --- SDI ------------------------------------------------------------------------------------------------------------


def test_sdi_finds_the_noise_of_the_gaussian() -> None:
    """Without fresh noise and guidance the found noise is that of the exact inversion: z0 - x0 = (z0 - m)(1 - a tau / sqrt D)."""
    prior, z0 = gaussian((0.4, 0.4)), torch.full((1, *SHAPE), 1.7)
    settings: dict[str, Any] = {"guidance_scale": 1, "inversion_scale": 1, "eta": 0, "stride": 10}
    gradient, evidence, _ = distil(prior, "sdi", z0, [500], uniform=0.0, **settings)
    alpha, sigma = levels(prior, 500)
    root = (alpha**2 * TAU**2 + sigma**2) ** 0.5
    expected = (1.7 - 0.4) * (1 - alpha * TAU / root)
    assert gradient.mean().item() == pytest.approx(expected, rel=0.03)
    assert evidence.here.t.item() == 500
    torch.testing.assert_close(evidence.here.z, alpha * z0 + sigma * evidence.epsilon)


def test_sdi_repeats_and_eta_adds_noise() -> None:
    prior, z0 = gaussian((0.4, -0.1)), draw(1, *SHAPE)
    first, second = (distil(prior, "sdi", z0, [500], eta=0)[1].epsilon for _ in range(2))
    assert torch.equal(first, second)
    noisy = distil(prior, "sdi", z0, [500], eta=0.3)[1].epsilon
    assert 0.01 < (noisy - first).std() < 1.0
    assert distil(prior, "sdi", z0, [2], uniform=0.0)[0].isfinite().all(), "small times have few nodes"


def test_further_noise_is_white_and_its_own() -> None:
    epsilon = draw(2, 4, 16, 16)
    noises = [fresh_noise(epsilon, number) for number in range(12)]
    stacked = torch.stack([epsilon, *noises]).flatten(1)
    correlation = torch.corrcoef(stacked) - torch.eye(13)
    assert correlation.abs().max() < 5 / (2 * 1024) ** 0.5
    assert torch.equal(fresh_noise(epsilon[1:], 3)[0], noises[3][1]), "each sample keeps its own"


# --- consistency: T23 -----------------------------------------------------------------------------------------------


def test_the_fixed_noise_is_the_same_at_every_step_and_for_every_sample() -> None:
    noiser = FixedNoiser(3)
    first = noiser.noise(torch.zeros(2, *SHAPE))
    assert torch.equal(first, noiser.noise(torch.ones(2, *SHAPE))) and torch.equal(first[0], first[1])
    assert torch.equal(first, FixedNoiser(3).noise(torch.zeros(2, *SHAPE)))
    assert not torch.equal(first, FixedNoiser(4).noise(torch.zeros(2, *SHAPE)))
    assert first.std() > 0.5


def test_the_step_back_is_that_of_the_exploding_form() -> None:
    prior, z0 = gaussian((0.5, 0.1)), draw(2, *SHAPE)
    _, evidence, _guide = distil(prior, "consistent3d", z0, [300, 300], uniform=0.25, guidance_scale=7.5)
    here, there = evidence.here, evidence.points["s"]
    assert here.t.tolist() == [450, 450] and there.t.tolist() == [300, 300]
    level, lower = here.sigma / here.alpha, there.sigma / there.alpha
    exploded = z0 + level * evidence.epsilon
    expected = exploded + (lower - level) * evidence.guided()
    torch.testing.assert_close(there.z / there.alpha, expected, atol=1e-3, rtol=1e-3)


def test_consistency_converges_and_its_opposite_does_not() -> None:
    """T23: descending the residual leads to a rest, ascending leads away (Gaussian toy)."""
    prior = gaussian((0.5, 0.5))
    ends = []
    for sign in (1.0, -1.0):
        z0 = torch.full((1, *SHAPE), 2.0)
        for step in range(80):
            gradient, _, _ = distil(prior, "consistent3d", z0, [300], step % 10, guidance_scale=1, clamp=None)
            z0 = z0 - sign * 2.0 * gradient
        ends.append(float(gradient.abs().max()))
    assert ends[0] < 1e-3 < 1e-1 < ends[1]


# --- HiFA and reversed noise ----------------------------------------------------------------------------------------


def test_one_step_of_hifa_is_the_reconstruction_of_mvdream() -> None:
    prior, z0 = gaussian((0.5, 0.1)), draw(2, *SHAPE)
    one, _, _ = distil(prior, "hifa", z0, [500, 500], denoise_steps=1, gain=1)
    recon, _, _ = distil(prior, "mvdream-recon", z0, [500, 500], rescale=0, guidance_scale=7.5)
    torch.testing.assert_close(one, recon, atol=1e-4, rtol=1e-4)


def test_many_steps_of_hifa_reach_what_the_prior_would_sample() -> None:
    """Without guidance, DDIM in ever more steps maps z_t to m + tau (z_t - alpha m) / sqrt(D)."""
    prior, z0 = gaussian((0.5, 0.5)), draw(2, *SHAPE)
    gradient, evidence, _ = distil(prior, "hifa", z0, [700, 700], denoise_steps=50, guidance_scale=1, gain=1)
    alpha, sigma = levels(prior, 700)
    exact = 0.5 + TAU * (evidence.here.z - alpha * 0.5) / (alpha**2 * TAU**2 + sigma**2) ** 0.5
    torch.testing.assert_close(z0 - gradient, exact, atol=0.05, rtol=0.05)
    assert evidence.points["end"].t.tolist() == [14, 14]


@pytest.mark.parametrize("kind", ["flow", "v_prediction"])
def test_reversed_noise_is_the_prediction_at_the_first_point(kind: str) -> None:
    """T18: eps' = eps + (1 - sigma)(v - (eps - z0)), which is the noise prediction itself, without guidance."""
    prior, z0 = gaussian((0.5, 0.1), parametrisation=kind), draw(2, *SHAPE)
    _, evidence, _ = distil(prior, "rfds-rev", z0, [400, 400])
    t, epsilon = torch.tensor([400, 400]), draw(2, *SHAPE, seed=2)
    alpha, sigma = prior.alpha_sigma(t)
    z = alpha * z0 + sigma * epsilon
    spread = alpha**2 * TAU**2 + sigma**2
    predicted = sigma * (z - alpha * 0.5) / spread
    torch.testing.assert_close(evidence.epsilon, predicted, atol=1e-4, rtol=1e-4)
    if kind == "flow":
        v = (predicted - z) / alpha
        torch.testing.assert_close(evidence.epsilon, epsilon + (1 - sigma) * (v - (epsilon - z0)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(evidence.here.z, alpha * z0 + sigma * evidence.epsilon)
    assert PROMPTED in evidence.predictions


def test_a_ddim_step_and_its_inverse_meet() -> None:
    z, epsilon = draw(2, *SHAPE), draw(2, *SHAPE, seed=1)
    here = Point(z, torch.tensor([1, 1]), torch.tensor(0.9), torch.tensor(0.436))
    there = ddim_step(epsilon, here, torch.tensor(0.5), torch.tensor(0.866))
    back = ddim_step(epsilon, Point(there, here.t, torch.tensor(0.5), torch.tensor(0.866)), here.alpha, here.sigma)
    torch.testing.assert_close(back, z, atol=1e-5, rtol=1e-5)


def test_walks_record_no_graph(make_guide: Callable[..., Guidance], prompt: Prompt) -> None:
    draws = Draws(t=torch.tensor([500]), epsilon=draw(1, 4, 6, 6), uniform=torch.tensor([0.5]))
    for name in ("ism", "sdi", "consistent3d", "hifa", "rfds-rev"):
        z0 = draw(1, 4, 6, 6, seed=1).requires_grad_()
        _, _, evidence = make_guide(name).distil(z0, prompt, turntable(1, 6), 0, draws)
        assert not any(point.z.requires_grad for point in evidence.points.values())
