"""Exact priors against formulas written here a second time, and conversions between parametrisations (T18)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import ConfigError, ShapeError
from sds3d.priors.base import Query, stack_queries
from sds3d.priors.exact import ExactPrior, LinearCodec, Mixture
from sds3d.priors.noise_levels import flow_levels, from_betas, variance_preserving
from sds3d.priors.parametrisation import (
    PARAMETRISATIONS,
    Parametrisation,
    add_noise,
    epsilon_to_clean,
    output_to_epsilon,
    training_target,
)

SHAPE = (2, 3, 3)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MEAN = draw(*SHAPE, seed=1)
MIXTURE = Mixture(draw(3, *SHAPE, seed=2) * 0.4, torch.tensor([0.5, 0.8, 1.3]), torch.tensor([0.2, 0.5, 0.3]))


def ask(prior: ExactPrior, z_t: Tensor, t: Tensor, text: str = "y") -> Tensor:
    return prior.predict([Query(z_t=z_t, t=t, text=prior.text([text] * len(t)))])[0]


def log_density(z_t: Tensor, alpha: Tensor, sigma: Tensor, mixture: Mixture) -> Tensor:
    """[B] log p_t(z_t), by torch.distributions."""
    variance = (alpha**2 * mixture.stds.double() ** 2 + sigma**2).flatten()
    parts = [
        torch.distributions.Normal(alpha * mean, v.sqrt()).log_prob(z_t).flatten(1).sum(1) + w.double().log()
        for mean, v, w in zip(mixture.means, variance, mixture.weights, strict=True)
    ]
    return torch.stack(parts).logsumexp(0)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
@pytest.mark.parametrize("t", [30, 400, 950])
def test_gaussian_prediction_has_the_closed_form_in_every_parametrisation(kind: Parametrisation, t: int) -> None:
    prior = ExactPrior({"y": Mixture.gaussian(MEAN, 0.6)}, parametrisation=kind)
    times = torch.full((4,), t)
    alpha, sigma = (level.double() for level in prior.alpha_sigma(times))
    z_t = draw(4, *SHAPE, seed=3)
    expected = sigma * (z_t - alpha * MEAN) / (alpha**2 * 0.6**2 + sigma**2)
    torch.testing.assert_close(ask(prior, z_t, times), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("t", [50, 400, 900])
def test_mixture_prediction_is_the_score_by_finite_differences(t: int) -> None:
    prior = ExactPrior({"y": MIXTURE})
    alpha, sigma = (level.double() for level in prior.alpha_sigma(torch.tensor([t])))
    z_t = draw(1, *SHAPE, seed=4)
    flat = torch.eye(z_t.numel(), dtype=torch.float64).reshape(-1, *SHAPE) * 1e-4
    above, below = (log_density(z_t + sign * flat, alpha, sigma, MIXTURE) for sign in (1, -1))
    score = ((above - below) / 2e-4).reshape(1, *SHAPE)
    torch.testing.assert_close(ask(prior, z_t, torch.tensor([t])), -sigma * score, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", PARAMETRISATIONS)
def test_conversions_invert_the_training_target(kind: Parametrisation) -> None:
    z0, epsilon, sigma = draw(5, *SHAPE, seed=5), draw(5, *SHAPE, seed=6), torch.rand(5, 1, 1, 1).double() * 0.9 + 0.05
    alpha = 1 - sigma if kind == "flow" else (1 - sigma**2).sqrt()
    z_t = add_noise(z0, epsilon, alpha, sigma)
    output = training_target(z0, epsilon, alpha, sigma, kind)
    recovered = output_to_epsilon(output, z_t, alpha, sigma, kind)
    torch.testing.assert_close(recovered, epsilon, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(epsilon_to_clean(recovered, z_t, alpha, sigma), z0, atol=1e-12, rtol=1e-9)


def test_differences_of_outputs_scale_as_the_table_says() -> None:
    z_t, first, second = draw(2, *SHAPE, seed=7), draw(2, *SHAPE, seed=8), draw(2, *SHAPE, seed=9)
    sigma = torch.tensor(0.3).double()
    for kind, alpha in (("v_prediction", (1 - sigma**2).sqrt()), ("flow", 1 - sigma)):
        a, b = (output_to_epsilon(v, z_t, alpha, sigma, kind) for v in (first, second))  # type: ignore[arg-type]
        torch.testing.assert_close(a - b, alpha * (first - second))
    alpha, z0, epsilon = 1 - sigma, first, second
    clean = epsilon_to_clean(output_to_epsilon(z_t, z_t, alpha, sigma, "flow"), z_t, alpha, sigma)
    torch.testing.assert_close(clean, z_t - sigma * z_t)  # x0 = z - sigma v
    z = add_noise(z0, epsilon, alpha, sigma)
    v_hat = z_t
    eps_hat = output_to_epsilon(v_hat, z, alpha, sigma, "flow")
    torch.testing.assert_close(eps_hat - epsilon, (1 - sigma) * (v_hat - (epsilon - z0)))


def test_noise_levels_have_the_published_values() -> None:
    levels = variance_preserving()
    bar = {t: (levels.alpha[t] ** 2).item() for t in (20, 50, 200, 500, 800, 980)}
    expected = {20: 0.98131, 50: 0.95158, 200: 0.75369, 500: 0.27633, 800: 0.03687, 980: 0.00584}
    assert bar == pytest.approx(expected, abs=5e-6)
    assert (levels.alpha**2 < 0.5).nonzero()[0].item() == 354
    torch.testing.assert_close(levels.alpha**2 + levels.sigma**2, torch.ones(1000))
    snr_zero = variance_preserving(zero_terminal_snr=True)
    assert snr_zero.alpha[-1] == 0 and snr_zero.alpha[0] == pytest.approx(levels.alpha[0].item())
    half = from_betas(torch.tensor([0.75, 0.0]))
    assert half.alpha.tolist() == [0.5, 0.5]
    with pytest.raises(ConfigError, match="noise schedule is 'sigmoid'; known are scaled_linear"):
        variance_preserving("sigmoid")


def test_flow_levels_are_the_shifted_table_read_backwards() -> None:
    sigma = flow_levels(shift=3.0).sigma.flip(0)  # index i of the falling table of diffusers
    assert sigma[300].item() == pytest.approx(0.875, abs=1e-6)
    assert sigma[980].item() == pytest.approx(0.0577, abs=5e-5)
    straight = flow_levels()
    assert straight.sigma[-1] == 1 and straight.sigma[499].item() == pytest.approx(0.5)
    torch.testing.assert_close(straight.alpha + straight.sigma, torch.ones(1000))


def test_levels_match_diffusers_for_every_schedule() -> None:
    from diffusers import DDPMScheduler

    for name in ("linear", "scaled_linear", "squaredcos_cap_v2"):
        bar = DDPMScheduler(beta_schedule=name, beta_start=0.001, beta_end=0.02).alphas_cumprod
        ours = variance_preserving(name, 0.001, 0.02)
        torch.testing.assert_close(ours.alpha**2, bar, atol=1e-6, rtol=1e-3)


def test_texts_choose_the_mixture_and_padding_changes_nothing() -> None:
    prior = ExactPrior({"y": Mixture.gaussian(MEAN, 0.6), "": MIXTURE})
    z_t, t = draw(3, *SHAPE, seed=10), torch.tensor([100, 500, 900])
    together = prior.predict([Query(z_t=z_t, t=t, text=prior.text([name] * 3)) for name in ("y", "")])
    for name, mixture, one in (("y", Mixture.gaussian(MEAN, 0.6), together[0]), ("", MIXTURE, together[1])):
        torch.testing.assert_close(one, ask(ExactPrior({name: mixture}), z_t, t, name))
    with pytest.raises(ConfigError, match="does not know the text 'z'; it knows '' or 'y'"):
        prior.text(["z"])


def test_camera_shift_moves_the_means() -> None:
    shift = draw(16, *SHAPE, seed=11).float() * 0.1
    prior = ExactPrior({"y": Mixture.gaussian(MEAN, 0.6)}, camera_shift=shift)
    features = prior.camera_features(turntable(2, 8))
    assert features is not None and prior.has_camera
    z_t, t = draw(2, *SHAPE, seed=12), torch.tensor([300, 300])
    seen, unseen = prior.predict(
        [Query(z_t=z_t, t=t, text=prior.text(["y"] * 2), camera=camera) for camera in (features, None)]
    )
    for view in range(2):
        moved = MEAN + torch.einsum("d,dchw->chw", features[view].double(), shift.double())
        one = ask(ExactPrior({"y": Mixture.gaussian(moved, 0.6)}), z_t[view : view + 1], t[:1])
        torch.testing.assert_close(seen[view : view + 1], one, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(unseen, ask(ExactPrior({"y": Mixture.gaussian(MEAN, 0.6)}), z_t, t))


def test_codecs_go_there_and_back_with_exact_gradients() -> None:
    codec = LinearCodec(draw(4, 3, seed=13).float(), draw(4, seed=14).float())
    prior = ExactPrior({"y": Mixture.gaussian(torch.zeros(4, 5, 5), 1.0)}, codec=codec)
    rgb = torch.rand(2, 5, 5, 3, requires_grad=True)
    z0 = prior.encode(rgb)
    assert z0.shape == (2, 4, 5, 5) and prior.image_size == 5
    torch.testing.assert_close(prior.decode(z0), rgb, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((z0 * upstream).sum(), rgb)
    torch.testing.assert_close(gradient, torch.einsum("bchw,ck->bhwk", upstream, codec.matrix))
    plain = ExactPrior({"y": Mixture.gaussian(torch.zeros(3, 5, 5), 1.0)})
    torch.testing.assert_close(plain.encode(rgb), 2 * rgb.permute(0, 3, 1, 2) - 1)
    torch.testing.assert_close(plain.decode(plain.encode(rgb)), rgb)
    with pytest.raises(ShapeError, match=r"rgb has shape \[2, 4, 5, 3\], but \[B, 5, 5, 3\] is needed"):
        plain.encode(torch.zeros(2, 4, 5, 3))


def test_queries_must_belong_together() -> None:
    z_t, text = torch.zeros(2, *SHAPE), torch.zeros(2, 1, 1)
    with pytest.raises(ShapeError, match=r"t has shape \[1\], but \[2\] \(one a sample\) is needed"):
        stack_queries([Query(z_t=z_t, t=torch.zeros(1).long(), text=text)])
    with pytest.raises(ShapeError, match=r"text has shape \[1, 1, 1\], but \[2, tokens, dim\]"):
        stack_queries([Query(z_t=z_t, t=torch.zeros(2).long(), text=text[:1])])
