"""One step of guidance against closed forms: T1, T2, T3, T5, and what happens when a prediction breaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit, turntable
from sds3d.errors import ConfigError, DivergenceError, ShapeError
from sds3d.guidance.branches import Branch, Draws
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS, MvdreamReconConfig, SdsConfig
from sds3d.guidance.rules import Linear
from sds3d.priors.base import Query
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.prompts import Prompt

SHAPE = (3, 4, 4)
PLAIN = Prompt(text="y", view_dependent=False)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def sds(**settings: object) -> SdsConfig:
    return SdsConfig.model_validate({"guidance_scale": 1.0, "weight": "uniform", **settings})


def gaussian_prior(std: float = 0.5, means: Sequence[float] = (0.7, -0.2)) -> ExactPrior:
    """Prompt "y" and empty text "" as Gaussians of the same spread about constant images."""
    return ExactPrior(
        {text: Mixture.gaussian(torch.full(SHAPE, m), std) for text, m in zip(("y", ""), means, strict=True)}
    )


def given(t: Tensor, epsilon: Tensor) -> Draws:
    return Draws(t=t, epsilon=epsilon, uniform=torch.full((len(t),), 0.5))


def gradient_at(prior: ExactPrior, config: GuidanceConfig, z0: Tensor, t: int, epsilon: Tensor) -> Tensor:
    """The gradient with the same time for all; z0 [C, h, w] is repeated for each noise [N, C, h, w]."""
    repeated = z0.expand_as(epsilon) if z0.ndim == 3 else z0
    guide, times = Guidance(prior, config, 1), torch.full((len(epsilon),), t)
    return guide.gradient(repeated, PLAIN, turntable(len(epsilon), 4), 0, given(times, epsilon))[0]


def mirrored(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """[2 count, C, h, w] noise whose mean is exactly zero: every draw with its opposite."""
    epsilon = draw(count, *SHAPE, seed=5, dtype=dtype)
    return torch.cat([epsilon, -epsilon])


@pytest.mark.parametrize("t", [100, 500, 900])
def test_sds_has_the_mean_and_variance_of_the_gaussian_toy(t: int) -> None:
    """T1: mean sigma alpha (z0 - m) / D, variance per element (alpha^2 tau^2 / D)^2."""
    prior, z0 = gaussian_prior(), torch.full(SHAPE, 1.6)
    alpha, sigma = (level.item() for level in prior.alpha_sigma(torch.tensor([t])))
    spread = alpha**2 * 0.25 + sigma**2
    gradient = gradient_at(prior, sds(), z0, t, mirrored(2000))
    expected = torch.full(SHAPE, sigma * alpha * (1.6 - 0.7) / spread)
    torch.testing.assert_close(gradient.mean(0), expected, atol=1e-4, rtol=1e-4)
    assert gradient.mean() > 0, "above the mean the gradient is positive: it is descended"
    assert (gradient - expected).square().mean().item() == pytest.approx((alpha**2 * 0.25 / spread) ** 2, rel=0.02)


@pytest.mark.parametrize("scale", [1.0, 3.0, 20.0])
def test_guidance_overshoots_linearly(scale: float) -> None:
    """T2: with equal spreads the gradient vanishes at m_u + s (m_y - m_u)."""
    prior, noise = gaussian_prior(), mirrored(2)
    fixed_point = -0.2 + scale * 0.9
    for offset in (-1.0, 0.0, 1.0):
        z0 = torch.full(SHAPE, fixed_point + offset)
        mean = gradient_at(prior, sds(guidance_scale=scale), z0, 300, noise).mean(0)
        if offset:
            assert (mean.sign() == offset).all()
        else:
            torch.testing.assert_close(mean, torch.zeros(SHAPE), atol=1e-4, rtol=0)


MIXTURE = Mixture(draw(2, *SHAPE, seed=7) * 0.5, torch.tensor([0.5, 0.8]), torch.tensor([0.4, 0.6]))


def log_density(z_t: Tensor, alpha: Tensor, sigma: Tensor, mixture: Mixture) -> Tensor:
    """[B] log p_t of a mixture, written independently of the prior."""
    parts = []
    for mean, std, weight in zip(mixture.means.double(), mixture.stds.double(), mixture.weights.double(), strict=True):
        spread = (alpha**2 * std**2 + sigma**2).sqrt()
        parts.append(torch.distributions.Normal(alpha * mean, spread).log_prob(z_t).flatten(1).sum(1) + weight.log())
    return torch.stack(parts).logsumexp(0)


@pytest.mark.parametrize("mixture", [Mixture.gaussian(draw(*SHAPE, seed=8), 0.6), MIXTURE], ids=["gaussian", "mixture"])
@pytest.mark.parametrize("t", [200, 700])
def test_sds_with_kl_weight_is_the_gradient_of_the_expected_log_density(mixture: Mixture, t: int) -> None:
    """T3: finite differences of -E log p_t(alpha z0 + sigma eps) over the very same noise."""
    prior = ExactPrior({"y": mixture, "": mixture})
    noise, z0 = mirrored(16, torch.float64), draw(*SHAPE, seed=9, dtype=torch.float64)
    alpha, sigma = (level.double() for level in prior.alpha_sigma(torch.tensor([t])))
    gradient = gradient_at(prior, sds(weight="kl"), z0, t, noise).mean(0)
    for index in ((0, 0, 0), (1, 2, 3), (2, 3, 1)):
        nudge = torch.zeros(SHAPE, dtype=torch.float64)
        nudge[index] = 1e-4
        above, below = (
            -log_density(alpha * (z0 + sign * nudge) + sigma * noise, alpha, sigma, mixture).mean() for sign in (1, -1)
        )
        assert gradient[index].item() == pytest.approx(((above - below) / 2e-4).item(), abs=1e-5, rel=1e-4)


@pytest.mark.parametrize(("reduction", "share"), [("mean", 1 / 3), ("sum", 1.0)])
def test_the_loss_injects_the_gradient(reduction: str, share: float, make_prior, prompt: Prompt) -> None:
    """T5: d loss / d theta is the Jacobian transposed times g / B, through a linear renderer and encoder."""
    prior, cameras = make_prior(), turntable(3, 6)
    guide = Guidance(prior, SdsConfig.model_validate({"reduction": reduction}), 10)
    jacobian, theta = draw(3 * 6 * 6 * 3, 5, seed=1), draw(5, seed=2).requires_grad_()
    rgb = (jacobian @ theta).reshape(3, 6, 6, 3)
    loss, logs = guide(rgb, prompt, cameras, 4, torch.Generator().manual_seed(3))
    loss.backward()
    z0 = prior.encode(rgb).detach()
    draws = guide.draw(z0, 4, torch.Generator().manual_seed(3))
    gradient, _ = guide.gradient(z0, prompt, cameras, 4, draws)
    pixels = torch.einsum("bchw,ck->bhwk", gradient, prior.codec.matrix)
    torch.testing.assert_close(theta.grad, share * jacobian.T @ pixels.flatten(), rtol=1e-4, atol=1e-3)
    assert not any(value.requires_grad for value in logs.values())


@pytest.mark.parametrize("camera", [True, False])
def test_a_branch_sees_the_camera_unless_it_is_hidden(
    camera: bool, make_prior, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two cameras with the same view word: only the camera features can tell them apart."""
    rule = Linear({Branch("y", camera=camera): 1.0, "eps": -1.0})
    monkeypatch.setitem(METHODS, "sds", replace(METHODS["sds"], rule=lambda config: rule))
    guide = Guidance(make_prior(), SdsConfig(), 10)
    z0, epsilon, t = draw(1, 4, 6, 6, seed=1), draw(1, 4, 6, 6, seed=2), torch.tensor([400])
    one, other = (
        guide.gradient(
            z0, prompt, orbit(torch.tensor([azimuth]), *torch.tensor([[15.0], [2.5]]), 45.0, 6, 6), 0, given(t, epsilon)
        )[0]
        for azimuth in (-20.0, 20.0)
    )
    assert (one - other).abs().max() > 1e-3 if camera else torch.equal(one, other)


def test_negative_prompt_replaces_the_empty_text_as_baseline(make_prior) -> None:
    z0, epsilon, t = draw(1, 4, 6, 6, seed=1), draw(1, 4, 6, 6, seed=2), torch.tensor([400])
    guide = Guidance(make_prior(), SdsConfig(), 10)
    plain, negative = (Prompt(text="a mug", negative=n, view_dependent=False) for n in ("", "blurry"))
    first, second = (guide.gradient(z0, p, turntable(1, 6), 0, given(t, epsilon))[0] for p in (plain, negative))
    assert (first - second).abs().max() > 0.1
    unguided = Guidance(make_prior(), SdsConfig.model_validate({"guidance_scale": 1}), 10)
    first, second = (unguided.gradient(z0, p, turntable(1, 6), 0, given(t, epsilon))[0] for p in (plain, negative))
    assert torch.equal(first, second), "without guidance the baseline is not even asked for"


def test_steps_repeat_with_the_generator_and_share_times_as_configured(make_prior, prompt: Prompt) -> None:
    prior, rgb, cameras = make_prior(), torch.rand(4, 6, 6, 3), turntable(4, 6)
    first, second = (
        Guidance(prior, MvdreamReconConfig(), 10)(rgb, prompt, cameras, 0, torch.Generator().manual_seed(7))
        for _ in range(2)
    )
    assert torch.equal(first[0], second[0]) and {k: v.item() for k, v in first[1].items()} == {
        k: v.item() for k, v in second[1].items()
    }
    z0 = prior.encode(rgb)
    for config, distinct in ((SdsConfig(), 4), (MvdreamReconConfig(), 1), (SdsConfig(group=2), 2)):
        draws = Guidance(prior, config, 10).draw(z0, 0, torch.Generator().manual_seed(7))
        assert len(draws.t.unique()) == distinct
        assert len(draws.uniform.unique()) == distinct, "samples that share a time share the further draw"


def test_views_a_prior_looks_at_together_share_a_time(make_prior) -> None:
    prior = make_prior()
    prior.group_views = 2
    z0 = torch.zeros(12, 3, 4, 4)
    for group, expected in ((1, 2), (3, 6), (4, 4), (0, 12)):
        draws = Guidance(prior, SdsConfig(group=group), 10).draw(z0, 0, torch.Generator().manual_seed(0))
        runs = draws.t.view(-1, expected)
        assert (runs == runs[:, :1]).all() and draws.t.unique().numel() == 12 // expected


def test_the_window_follows_its_schedule(make_prior) -> None:
    fall = {"clock": "fraction", "points": [[0, 0.9], [1, 0.1]]}
    guide = Guidance(make_prior(), SdsConfig.model_validate({"t_min": fall, "t_max": fall}), 100)
    z0 = torch.zeros(2, 4, 6, 6)
    assert [guide.draw(z0, step, torch.Generator()).t.tolist() for step in (0, 50)] == [[900, 900], [500, 500]]


def test_logs_describe_the_step(make_prior, prompt: Prompt) -> None:
    guide = Guidance(make_prior(), SdsConfig(), 10)
    z0, epsilon, t = draw(2, 4, 6, 6, seed=1), draw(2, 4, 6, 6, seed=2), torch.tensor([100, 300])
    gradient, logs = guide.gradient(z0, prompt, turntable(2, 6), 0, given(t, epsilon))
    assert set(logs) == {"t_mean", "gradient_norm", "non_finite", "rms_y", "rms_u"}
    assert logs["t_mean"] == 200 and logs["non_finite"] == 0
    assert logs["gradient_norm"].item() == pytest.approx(gradient.flatten(1).norm(dim=1).mean().item())
    assert 0.3 < logs["rms_y"] < 3


def test_clamp_and_unit_norm_are_applied_in_this_order(make_prior, prompt: Prompt) -> None:
    z0, epsilon, t = draw(2, 4, 6, 6, seed=1), draw(2, 4, 6, 6, seed=2), torch.tensor([100, 300])

    def gradient(**settings: object) -> Tensor:
        guide = Guidance(make_prior(), SdsConfig.model_validate(settings), 10)
        return guide.gradient(z0, prompt, turntable(2, 6), 5, given(t, epsilon))[0]

    rise = {"clock": "fraction", "points": [[0, 0.0], [1, 0.4]]}
    clamped = gradient().clamp(-0.2, 0.2)
    torch.testing.assert_close(gradient(clamp=rise), clamped)
    torch.testing.assert_close(gradient(clamp=rise, unit_norm=True), clamped / clamped.norm())


class BrokenPrior(ExactPrior):
    """Answers NaN in one element for the second branch it is asked about."""

    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        answers = super().predict(queries)
        answers[1][0, 0, 0, 0] = float("nan")
        return answers


def test_a_broken_prediction_stops_the_run_and_is_named() -> None:
    prior = BrokenPrior({text: Mixture.gaussian(torch.zeros(SHAPE), 1.0) for text in ("y", "")})
    noise, rgb = mirrored(1), torch.rand(2, 4, 4, 3)
    with pytest.raises(DivergenceError, match="'guidance:u' is not finite at step 0") as caught:
        gradient_at(prior, SdsConfig(), torch.zeros(SHAPE), 500, noise)
    assert caught.value.term == "guidance:u"
    with pytest.raises(DivergenceError, match="'guidance:z0' is not finite at step 6"):
        guide = Guidance(prior, SdsConfig(), 10)
        guide(rgb * float("nan"), PLAIN, turntable(2, 4), 6, torch.Generator())
    counting = Guidance(prior, SdsConfig(non_finite="replace"), 10)
    gradient, logs = counting.gradient(
        torch.zeros(2, *SHAPE), PLAIN, turntable(2, 4), 0, given(torch.tensor([500, 500]), noise)
    )
    assert gradient.isfinite().all() and logs["non_finite"].item() == 1
    assert gradient[0, 0, 0, 0] == 0 and gradient[1].abs().min() > 0


def test_a_render_of_latents_is_judged_as_it_is(make_prior, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, cameras, rgb = make_prior(), turntable(2, 6), torch.rand(2, 6, 6, 3)
    guide, z0 = Guidance(prior, SdsConfig(), 10), prior.encode(rgb)
    latents = z0.permute(0, 2, 3, 1).clone().requires_grad_()
    through_encoder, _ = guide(rgb.requires_grad_(), prompt, cameras, 0, torch.Generator().manual_seed(0))
    assert guide._latent_shape == tuple(z0.shape[1:])
    monkeypatch.setattr(prior, "encode", None)  # nobody may ask for it now
    loss, _ = guide(latents, prompt, cameras, 0, torch.Generator().manual_seed(0), is_latent=True)
    torch.testing.assert_close(loss, through_encoder)
    loss.backward()
    draws = guide.draw(z0, 0, torch.Generator().manual_seed(0))
    gradient, _ = guide.gradient(z0, prompt, cameras, 0, draws)
    torch.testing.assert_close(latents.grad, gradient.permute(0, 2, 3, 1) / 2)
    large = torch.randn(2, 12, 12, z0.shape[1]).requires_grad_()  # another size is resized, differentiably
    guide(large, prompt, cameras, 0, torch.Generator(), is_latent=True)[0].backward()
    assert (large.grad != 0).any(dim=-1).float().mean() > 0.9
    with pytest.raises(ShapeError, match="latents of this prior"):
        guide(torch.rand(2, 6, 6, 7), prompt, cameras, 0, torch.Generator(), is_latent=True)


def test_inputs_that_do_not_fit_are_refused(make_prior, prompt: Prompt, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = Guidance(make_prior(), SdsConfig(), 10)
    with pytest.raises(ShapeError, match=r"cameras has shape \[3\], but \[2\] \(one a render\) is needed"):
        guide(torch.rand(2, 6, 6, 3), prompt, turntable(3, 6), 0, torch.Generator())
    rule = Linear({Branch("y", network="psi"): 1.0})
    monkeypatch.setitem(METHODS, "sds", replace(METHODS["sds"], rule=lambda config: rule))
    with pytest.raises(ConfigError, match="needs the network 'psi', but only base is given"):
        Guidance(make_prior(), SdsConfig(), 10)
    prior = make_prior()
    calls: list[int] = []

    def network(queries: Sequence[Query]) -> list[Tensor]:
        calls.append(len(queries))
        return prior.predict(queries)

    Guidance(prior, SdsConfig(), 10, {"psi": network})(
        torch.rand(2, 6, 6, 3), prompt, turntable(2, 6), 0, torch.Generator()
    )
    assert calls == [1], "only the network that is needed is called, once"
