"""A guidance step of every family on the CPU and without values; causal bias and its cure (C7); windows (C9)."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import ConfigError
from sds3d.guidance.clip_filters import frame_rms
from sds3d.guidance.clips import ClipConfig, ClipGuidance
from sds3d.guidance.methods import SdsConfig
from sds3d.guidance.times import window
from sds3d.priors.noise_levels import flow_levels
from sds3d.priors.video.advice import SCALES, WINDOWS, advised
from sds3d.priors.video.families import FAMILIES, SVD, UNET3D, WAN
from sds3d.priors.video.open import open_video_prior
from sds3d.prompts import Prompt

NAMES = ("unet3d", "animatediff", "stacked", "stacked-balanced", "svd", "wan", "wan-experts", "cogvideox-rotary", "ltx")
PICTURES = ("wan-first", "wan-i2v-clip", "cogvideox-i2v", "ltx-first")
# Tiny encoders read 12 letters.
pytestmark = pytest.mark.filterwarnings("ignore::sds3d.priors.text_store.PromptCutWarning")


def gradient(guidance: ClipGuidance, rgb: Tensor, prompt: str = "a mug") -> Tensor:
    loss, _ = guidance(rgb, Prompt(text=prompt), turntable(1, 8), 0, torch.Generator().manual_seed(3))
    loss.backward()
    assert rgb.grad is not None
    return rgb.grad


@pytest.mark.parametrize("name", NAMES + PICTURES)
def test_a_step_gives_a_finite_repeatable_gradient_that_hears_the_words(
    name: str, video_folder, video_settings
) -> None:
    prior = open_video_prior(video_folder(name), settings=video_settings[name])
    guidance = ClipGuidance(prior, advised(SdsConfig(), prior.family, "motion"), 10)
    found = []
    for words in ("a mug", "a mug", "a car"):
        rgb = torch.rand(1, prior.frames, *prior.size, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        found.append(gradient(guidance, rgb, words))
    assert found[0].isfinite().all() and found[0].abs().max() > 0
    assert torch.equal(found[0], found[1]), "the same seed gives the same bits"
    assert torch.equal(found[0], found[2]) == (not prior.hears_text)


@pytest.mark.parametrize("name", NAMES + PICTURES)
def test_a_step_runs_without_values(name: str, video_folder, video_settings) -> None:
    prior = open_video_prior(video_folder(name), device="meta", settings=video_settings[name])
    guidance = ClipGuidance(prior, advised(SdsConfig(), prior.family), 10, ClipConfig(amplify=2, smooth=3))
    rgb = torch.rand(2, prior.frames, 20, 24, 3, device="meta", requires_grad=True)
    loss, _ = guidance(rgb, Prompt(text="a mug"), turntable(2, 8).to("meta"), 0, torch.Generator())
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape


def test_a_given_first_frame_learns_nothing_and_steers_the_others(video_folder, video_settings) -> None:
    """Its residual is exactly 0 whatever is drawn, and another picture makes another gradient for the other frames."""
    for name in ("ltx-first", "wan-first"):
        prior = open_video_prior(video_folder(name), settings=video_settings[name])
        guidance = ClipGuidance(prior, SdsConfig(), 10)
        seen: list[Tensor] = []
        rgb = torch.rand(1, prior.frames, *prior.size, 3, generator=torch.Generator().manual_seed(0))
        guidance._filter = lambda g, step, seen=seen: (seen.append(g), g)[1]  # type: ignore[method-assign]
        other = rgb.clone()
        other[:, 0] = 1.0 - other[:, 0]
        for shown in (rgb, other):
            guidance.image_gradient(shown, Prompt(text="a mug"), turntable(1, 8), 0, torch.Generator().manual_seed(3))
        assert seen[0][:, :, 0].abs().max() < 1e-3 * seen[0][:, :, 1:].abs().max()
        assert (seen[0] - seen[1])[:, :, 1:].abs().max() > 1e-5


def test_only_models_with_token_times_start_from_a_given_frame(video_folder, video_settings) -> None:
    settings = video_settings["wan"].model_copy(update={"from_first_frame": True})
    with pytest.raises(ConfigError, match=r"from_first_frame is on, but .* one time for all frames.*LTX-Video and Wan"):
        open_video_prior(video_folder("wan"), settings=settings)


def test_a_still_start_evens_out_what_frames_get(video_folder, video_settings) -> None:
    """C7: a causal encoder favours the first frames; with still copies before them the ratio max / min falls."""
    settings = video_settings["wan"].model_copy(update={"frames": 9})
    prior = open_video_prior(video_folder("wan"), settings=settings)
    assert prior.frame_rule.stride == 4
    ratio = {}
    for still in (False, True):
        guidance = ClipGuidance(prior, SdsConfig(), 10, ClipConfig(still_start=still))
        assert guidance.folded.latent_frames == (4 if still else 3)
        noise = torch.randn(4, 4, 3, 4, 6, generator=torch.Generator().manual_seed(1))
        total = torch.zeros(9)
        base = torch.rand(1, 9, 32, 48, 3, generator=torch.Generator().manual_seed(0))
        for weights in noise:
            shown = guidance._shown(base, backwards=False).requires_grad_()
            z0 = prior.encode(shown)
            pulled = torch.cat([torch.zeros_like(z0[:, :, :1]), weights[None]], dim=2) if still else weights[None]
            (found,) = torch.autograd.grad(z0, shown, pulled)
            total += frame_rms(found[:, guidance.still :])[0].square()
        ratio[still] = float((total.max() / total.min()).sqrt())
    assert ratio[True] < 0.5 * ratio[False], ratio


def test_copies_of_the_first_frame_teach_nothing(video_folder, video_settings) -> None:
    """C7: the latent of the copies gets no gradient, and the clip's gradient has the clip's frames."""
    prior = open_video_prior(video_folder("wan"), settings=video_settings["wan"])
    guidance = ClipGuidance(prior, SdsConfig(), 10, ClipConfig(still_start=True))
    kept = guidance._filter(torch.ones(1, 4, 3, 4, 6), 0)
    assert not kept[:, :, 0].any() and (kept[:, :, 1:] == 1).all()
    rgb = torch.rand(1, 5, 32, 48, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gradient(guidance, rgb).flatten(2).abs().amax(dim=2).min() > 0


def test_the_walk_inverts_the_distribution_of_the_models_own_grid() -> None:
    """C9: CDF^-1(p) = S p / (1 + (S - 1) p) is our table read at p T: monotone, exact at the ends, straight for S = 1."""
    for shift in (1.0, 3.0, 5.0):
        sigma = flow_levels(1000, shift).sigma.double()
        p = torch.arange(1, 1001, dtype=torch.float64) / 1000
        torch.testing.assert_close(sigma, shift * p / (1 + (shift - 1) * p), atol=1e-7, rtol=1e-6)
        assert (sigma.diff() > 0).all() and sigma[-1] == 1.0
    walk, total = WINDOWS["walk"], 50
    seen = [window(walk.t_min.at(i, total), walk.t_max.at(i, total), 1000) for i in range(total)]
    assert all(low == high for low, high in seen), "no draw"
    assert seen[0] == (980, 980) and all(a > b for (a, _), (b, _) in pairwise(seen))


def test_advice_changes_windows_weights_and_scales_and_nothing_else() -> None:
    assert set(SCALES) == {family.title for family in FAMILIES}
    config = SdsConfig(reduction="sum")
    motion = advised(config, WAN, "motion")
    assert motion.reduction == "sum" and motion.weight == "velocity" and advised(config, UNET3D).weight == "sds"
    assert [motion.t_min.at(i, 10) for i in (0, 10)] == pytest.approx([0.7, 0.2])
    assert [motion.t_max.at(i, 10) for i in (0, 10)] == pytest.approx([0.98, 0.6])
    assert advised(config, SVD).guidance_scale.at(0, 1) == 2.0
    with pytest.raises(ConfigError, match="time window 'moton' is unknown; known are 'motion'"):
        advised(config, WAN, "moton")
