"""The exact video prior: closed form against brute force, residual identities of all parametrisations (C1), C2."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError
from sds3d.priors.base import Query
from sds3d.priors.exact import LinearCodec
from sds3d.priors.parametrisation import PARAMETRISATIONS, add_noise, epsilon_to_output, training_target
from sds3d.priors.video.exact import ExactVideoPrior


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def ask(prior: ExactVideoPrior, z_t: Tensor, t: Tensor, text: str = "y") -> Tensor:
    return prior.predict([Query(z_t=z_t, t=t, text=prior.text([text]).expand(len(z_t), -1, -1))])[0]


def covariance(frames: int, std: float, rho: float) -> Tensor:
    """C [f, f] written as a loop."""
    return torch.tensor(
        [[std**2 * rho ** abs(i - j) for j in range(frames)] for i in range(frames)], dtype=torch.float64
    )


def test_prediction_is_the_dense_gaussian_formula(make_exact) -> None:
    """eps = sigma (alpha^2 C + sigma^2 I)^-1 (z_t - alpha m), by a linear solve for each channel and pixel."""
    prior, t = make_exact(dtype=torch.float64, std=0.7, rho=0.8), torch.tensor([100, 900])
    z_t, (alpha, sigma) = draw(2, 3, 4, 5, 6), prior.alpha_sigma(t)
    found = ask(prior, z_t, t)
    for b in range(2):
        a, s = float(alpha[b]), float(sigma[b])
        matrix = a**2 * covariance(4, 0.7, 0.8) + s**2 * torch.eye(4, dtype=torch.float64)
        apart = (z_t[b] - a * prior._means[0]).permute(1, 0, 2, 3).flatten(1)
        expected = s * torch.linalg.solve(matrix, apart).reshape(4, 3, 5, 6).permute(1, 0, 2, 3)
        torch.testing.assert_close(found[b], expected, atol=1e-12, rtol=1e-10)


def test_score_is_the_gradient_of_the_log_density(make_exact) -> None:
    prior, t = make_exact(shape=(1, 3, 1, 2), dtype=torch.float64, std=0.7, rho=0.5), torch.tensor([400])
    alpha, sigma = (level.item() for level in prior.alpha_sigma(t))
    matrix = alpha**2 * covariance(3, 0.7, 0.5) + sigma**2 * torch.eye(3, dtype=torch.float64)
    z_t = draw(1, 1, 3, 1, 2).requires_grad_()
    apart = (z_t - alpha * prior._means[:1]).reshape(3, 2)
    log_density = -0.5 * (apart * torch.linalg.solve(matrix, apart)).sum()
    (expected,) = torch.autograd.grad(log_density, z_t)
    torch.testing.assert_close(prior.score(z_t.detach(), t, "y"), expected)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_residuals_of_all_parametrisations_agree(kind, make_exact) -> None:
    """C1: eps_hat - eps from the network's own residual: eps 1, v alpha, flow (1 - s) times (output - target)."""
    prior, t = make_exact(dtype=torch.float64, parametrisation=kind), torch.tensor([30, 700])
    alpha, sigma = prior.alpha_sigma(t)
    z0, epsilon = draw(2, 3, 4, 5, 6, seed=1), draw(2, 3, 4, 5, 6, seed=2)
    z_t = add_noise(z0, epsilon, alpha, sigma)
    residual = ask(prior, z_t, t) - epsilon
    output = epsilon_to_output(residual + epsilon, z_t, alpha, sigma, kind)
    factor = {"epsilon": 1.0, "v_prediction": alpha, "sample": -alpha / sigma, "flow": 1.0 - sigma}[kind]
    own = output - training_target(z0, epsilon, alpha, sigma, kind)
    torch.testing.assert_close(residual, factor * own, atol=1e-12, rtol=1e-11)
    if kind == "flow":
        torch.testing.assert_close(z0 - (z_t - sigma * output), sigma * own, atol=1e-12, rtol=1e-11)


def test_the_edm_denoiser_is_a_v_prediction_at_scaled_levels(make_exact) -> None:
    """C1, EDM: r = (z0 - D) / s with D = z_s / (s^2 + 1) - F s / sqrt(s^2 + 1) and F the v-form output."""
    prior, t = make_exact(dtype=torch.float64, parametrisation="v_prediction"), torch.tensor([300, 800])
    alpha, sigma = prior.alpha_sigma(t)
    s = sigma / alpha
    z0, epsilon = draw(2, 3, 4, 5, 6, seed=1), draw(2, 3, 4, 5, 6, seed=2)
    exploding = z0 + s * epsilon
    z_t = exploding / (s**2 + 1).sqrt()
    torch.testing.assert_close(z_t, add_noise(z0, epsilon, alpha, sigma), atol=1e-13, rtol=1e-12)
    eps_hat = ask(prior, z_t, t)
    network = epsilon_to_output(eps_hat, z_t, alpha, sigma, "v_prediction")
    denoised = exploding / (s**2 + 1) - network * s / (s**2 + 1).sqrt()
    torch.testing.assert_close((z0 - denoised) / s, eps_hat - epsilon, atol=1e-12, rtol=1e-11)


@pytest.mark.parametrize("antithetic", [True, False])
def test_distillation_ends_at_the_mean_of_the_prior(make_exact, antithetic: bool) -> None:
    """C2: with (eps, -eps) the noise cancels exactly and SDS converges to m; one-sided it stays near m."""
    prior = make_exact(shape=(1, 4, 2, 2), dtype=torch.float64, std=0.5, rho=0.9)
    z, mean, generator = draw(1, 1, 4, 2, 2, seed=9), prior._means[:1], torch.Generator().manual_seed(0)
    away = []
    for _ in range(400 if antithetic else 700):
        t = torch.randint(200, 900, (1,), generator=generator)
        epsilon = torch.randn(z.shape, generator=generator, dtype=torch.float64)
        alpha, sigma = prior.alpha_sigma(t)
        both = (epsilon, -epsilon) if antithetic else (epsilon,)
        z = z - (0.3 if antithetic else 0.05) * sum(ask(prior, alpha * z + sigma * e, t) - e for e in both) / len(both)
        away.append((z - mean).square().mean().sqrt().item())
    if antithetic:
        assert away[-1] < 1e-8
    else:
        assert 1e-3 < sum(away[-300:]) / 300 < 0.3 * 0.5, "close, but plain noise wanders"


def test_a_correlated_prior_refuses_jitter(make_exact) -> None:
    """A change that alternates between frames costs more than a constant one, the more so the nearer rho is to 1."""
    t = torch.tensor([500])
    ratio = []
    for rho in (0.0, 0.9):
        prior = make_exact(dtype=torch.float64, rho=rho)
        alpha, _ = prior.alpha_sigma(t)
        signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None].expand(1, 3, 4, 5, 6)
        still, shaking = (ask(prior, alpha * (prior._means[:1] + d), t).norm() for d in (signs.abs(), signs))
        ratio.append(float(shaking / still))
    assert ratio[0] == pytest.approx(1.0) and ratio[1] > 1.5


def test_encode_is_linear_and_undone_by_decode(make_exact) -> None:
    prior = make_exact(shape=(4, 3, 5, 6), codec=LinearCodec(draw(4, 3).float(), draw(4).float()))
    clip = torch.rand(2, 3, 5, 6, 3, generator=torch.Generator().manual_seed(0))
    assert prior.encode(clip).shape == (2, 4, 3, 5, 6)
    torch.testing.assert_close(prior.decode(prior.encode(clip)), clip, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(prior.encode(clip)[:, :, 1], prior.codec.encode(clip[:, 1]))
    plain = make_exact(shape=(3, 3, 5, 6))
    torch.testing.assert_close(plain.decode(plain.encode(clip)), clip)


def test_errors_say_what_is_needed(make_exact) -> None:
    prior = make_exact()
    with pytest.raises(ConfigError, match=r"clip has 1 frame, .*any number of frames from 2 to 4.*Set frames to 2"):
        prior.encode(torch.rand(1, 1, 5, 6, 3))
    with pytest.raises(ShapeError, match=r"\[B, F, H, W, 3\]"):
        prior.encode(torch.rand(4, 5, 6, 3))
    with pytest.raises(ShapeError, match=r"\[B, 4, 5, 6, 3\]"):
        prior.encode(torch.rand(1, 4, 6, 6, 3))
    with pytest.raises(ShapeError, match=r"\[B, C, f, h, w\]"):
        ask(prior, torch.rand(1, 3, 5, 6), torch.tensor([3]))
    with pytest.raises(ConfigError, match="does not know the text 'x'"):
        prior.text(["x"])
    with pytest.raises(ConfigError, match="rho 1"):
        make_exact(rho=1)


def test_nothing_carries_a_graph_and_float32_stays_float32(make_exact) -> None:
    prior = make_exact()
    z_t = draw(1, 3, 4, 5, 6).float().requires_grad_()
    answer = ask(prior, z_t, torch.tensor([10]))
    assert not answer.requires_grad and answer.dtype == torch.float32
    assert math.isfinite(answer.sum().item())
