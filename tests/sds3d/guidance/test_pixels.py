"""The way through the encoder: pixel filters (T16), the image term, number types (T26)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import DivergenceError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS, SdsConfig
from sds3d.priors.base import Query
from sds3d.priors.exact import ExactPrior, Mixture
from sds3d.priors.parametrisation import epsilon_to_clean
from sds3d.prompts import Prompt

PIXELS = torch.rand(3, 6, 6, 3, generator=torch.Generator().manual_seed(9))
Make = Callable[..., Guidance]


def pixel_gradient(guide: Guidance, prompt: Prompt, rgb: Tensor = PIXELS) -> tuple[Tensor, dict[str, Tensor]]:
    """Return d loss / d rgb of one step, and the logs."""
    leaf = rgb.clone().requires_grad_()
    loss, logs = guide(leaf, prompt, turntable(len(rgb), 6), 2, torch.Generator().manual_seed(3))
    loss.backward()
    assert leaf.grad is not None
    return leaf.grad, logs


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_without_a_limit_pixels_and_latents_agree(reduction: str, make_guide: Make, prompt: Prompt) -> None:
    """T16: c = infinity gives the same gradient as the latent route."""
    plain, _ = pixel_gradient(make_guide("sds", reduction=reduction), prompt)
    limited, logs = pixel_gradient(
        make_guide("sds", reduction=reduction, pixel_filter="pixel", pixel_limit=1e9), prompt
    )
    torch.testing.assert_close(limited, plain, rtol=1e-5, atol=1e-6)
    assert logs["clipped_pixels"] == 0


def test_the_limit_is_that_of_one_view_before_averaging(make_guide: Make, prompt: Prompt) -> None:
    """Clipping acts on the gradient of the sum; 1 / B follows. The share of clipped pixels is logged."""
    plain, _ = pixel_gradient(make_guide("sds", reduction="sum"), prompt)
    size = plain.abs().amax(dim=-1, keepdim=True)
    limit = float(size.median())
    expected = plain * (limit / size).clamp(max=1.0)
    for reduction, share in (("sum", 1.0), ("mean", 1 / 3)):
        guide = make_guide("sds", reduction=reduction, pixel_filter="pixel", pixel_limit=limit)
        clipped, logs = pixel_gradient(guide, prompt)
        torch.testing.assert_close(clipped, share * expected, rtol=1e-4, atol=1e-6)
        assert logs["clipped_pixels"].item() == pytest.approx(0.5, abs=0.02)


def test_a_linear_encoder_gives_its_transpose(prompt: Prompt) -> None:
    """T16: for z0 = 2 x - 1 the gradient in pixels is twice that in latents, channels last."""
    prior = ExactPrior({t: Mixture.gaussian(torch.full((3, 4, 4), m), 0.5) for t, m in (("y", 0.7), ("", 0.0))})
    guide = Guidance(prior, SdsConfig(pixel_filter="pixel", pixel_limit=1e9, reduction="sum"), 10)  # type: ignore[arg-type]
    plain = Prompt(text="y", view_dependent=False)
    rgb = torch.rand(2, 4, 4, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, _ = guide(rgb, plain, turntable(2, 4), 0, torch.Generator().manual_seed(2))
    loss.backward()
    z0 = prior.encode(rgb).detach()
    draws = guide.draw(z0, 0, torch.Generator().manual_seed(2))
    gradient, _ = guide.gradient(z0, plain, turntable(2, 4), 0, draws)
    assert rgb.grad is not None
    torch.testing.assert_close(rgb.grad, 2.0 * gradient.permute(0, 2, 3, 1))


def test_clipping_happens_at_the_size_of_the_render(prompt: Prompt, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The prior resizes what it is given; limits hold for the pixels that were rendered."""

    class Resizing(ExactPrior):
        def encode(self, rgb: Tensor) -> Tensor:
            small = torch.nn.functional.avg_pool2d(rgb.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            return super().encode(small)

    prior = Resizing({t: Mixture.gaussian(torch.full((3, 4, 4), m), 0.5) for t, m in (("y", 0.7), ("", 0.0))})
    guide = Guidance(prior, SdsConfig(pixel_filter="pixel", pixel_limit=0.01, reduction="sum"), 10)  # type: ignore[arg-type]
    rgb = torch.rand(1, 8, 8, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss, logs = guide(rgb, Prompt(text="y", view_dependent=False), turntable(1, 8), 0, torch.Generator())
    loss.backward()
    assert rgb.grad is not None and rgb.grad.abs().max().item() == pytest.approx(0.01)
    assert logs["clipped_pixels"] > 0.9


def test_the_image_term_pulls_to_the_decoded_estimate(make_guide: Make, prompt: Prompt) -> None:
    """g_x grows by weight w (alpha / sigma) (x - D(x0')), x0' the guided clean estimate."""
    settings = {"reduction": "sum", "weight": "uniform", "guidance_scale": 2.0, "gain": 0.5}
    plain, _ = pixel_gradient(make_guide("sds", **settings), prompt)
    guide = make_guide("sds", **settings, image_weight=0.3)
    both, logs = pixel_gradient(guide, prompt)
    z0 = guide.prior.encode(PIXELS)
    draws = guide.draw(z0, 2, torch.Generator().manual_seed(3))
    _, _, evidence = guide.distil(z0, prompt, turntable(3, 6), 2, draws)
    here = evidence.here
    decoded = guide.prior.decode(epsilon_to_clean(evidence.guided(), here.z, here.alpha, here.sigma)).clamp(0, 1)
    factor = 0.3 * 0.5 * (here.alpha / here.sigma).reshape(-1, 1, 1, 1)
    torch.testing.assert_close(both - plain, factor * (PIXELS - decoded), rtol=1e-3, atol=1e-4)
    assert logs["clipped_pixels"] == 0, "nothing is limited unless a filter is named"


# --- T26: number types ----------------------------------------------------------------------------------------------


class Halved(ExactPrior):
    """Answers in half precision, as a network would if nobody cast its output."""

    def predict(self, queries: Sequence[Query]) -> list[Tensor]:
        assert all(query.z_t.dtype == torch.float32 for query in queries), "noisy latents are float32, not re-cast"
        return [answer.bfloat16().float() for answer in super().predict(queries)]


@pytest.mark.parametrize("name", METHODS)
def test_arithmetic_stays_in_float32_under_autocast(name: str, make_guide: Make, prompt: Prompt) -> None:
    guide = make_guide(name)
    z0 = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    draws = guide.draw(z0, 5, torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under, _ = guide.gradient(z0, prompt, turntable(2, 6), 5, draws, z0.flip(0))
    assert under.dtype == torch.float32


def test_coarse_predictions_do_not_coarsen_the_rule() -> None:
    mixtures = {t: Mixture.gaussian(torch.full((3, 4, 4), m), 0.5) for t, m in (("y", 0.7), ("", 0.0))}
    plain, z0 = Prompt(text="y", view_dependent=False), torch.rand(2, 3, 4, 4)
    results = []
    for kind in (ExactPrior, Halved):
        guide = Guidance(kind(mixtures), SdsConfig(), 10)
        draws = guide.draw(z0, 0, torch.Generator().manual_seed(1))
        results.append(guide.gradient(z0, plain, turntable(2, 4), 0, draws)[0])
    assert results[1].dtype == torch.float32 and (results[0] - results[1]).abs().max() < 100 * 0.02


def test_the_counter_of_broken_numbers_is_in_the_logs_and_stops_a_flood() -> None:
    class Broken(Halved):
        count = 1

        def predict(self, queries: Sequence[Query]) -> list[Tensor]:
            answers = super().predict(queries)
            answers[0].view(-1)[: self.count] = float("nan")
            return answers

    mixtures = {t: Mixture.gaussian(torch.zeros(3, 8, 8), 0.5) for t in ("y", "")}
    prior, plain = Broken(mixtures), Prompt(text="y", view_dependent=False)
    guide = Guidance(prior, SdsConfig(non_finite="replace"), 10)
    z0 = torch.zeros(2, 3, 8, 8)
    draws = guide.draw(z0, 0, torch.Generator())
    _, logs = guide.gradient(z0, plain, turntable(2, 8), 0, draws)
    assert logs["non_finite"] == 1
    prior.count = 9
    with pytest.raises(DivergenceError, match="9 of 384 elements"):
        guide.gradient(z0, plain, turntable(2, 8), 0, draws)
