"""Guidance over clips with the exact prior: folding, batches, reductions, filters over frames (C2, C4, C5, C8, B11)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.errors import ConfigError, ShapeError
from sds3d.guidance import clip_filters
from sds3d.guidance.branches import Draws
from sds3d.guidance.clips import ClipConfig, ClipGuidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.exact import LinearCodec
from sds3d.priors.video.base import FrameRule
from sds3d.priors.video.deferred import backward_by_frame, deferred, render_without_graph
from sds3d.priors.video.exact import ExactVideoPrior
from sds3d.priors.video.folded import FoldedPrior, fold_latents, unfold_latents
from sds3d.prompts import Prompt

PLAIN = Prompt(text="y", source="y", view_dependent=False)
UNTRAINED = [name for name, row in METHODS.items() if not row.trains]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clip(count: int = 2, frames: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, frames, 5, 6, 3, generator=torch.Generator().manual_seed(seed))


def config(name: str = "sds", **settings: object):
    return METHODS[name].config.model_validate({"guidance_scale": 3, **settings})


def guide(prior: ExactVideoPrior, name: str = "sds", clips: ClipConfig | None = None, **settings: object):
    return ClipGuidance(prior, config(name, **settings), 10, clips)


def step(guidance: ClipGuidance, rgb: Tensor, seed: int = 3) -> Tensor:
    cameras = turntable(len(rgb), 6)
    return guidance.image_gradient(rgb, PLAIN, cameras, 0, torch.Generator().manual_seed(seed))[0]


@pytest.mark.parametrize("name", UNTRAINED)
def test_two_clips_are_two_single_clips_for_every_method(name: str, make_exact) -> None:
    """C4, C5: each clip has a time of its own, and what broadcasts over clips does so over 5 axes."""
    prior = make_exact()
    folded = FoldedPrior(prior, 4)
    from sds3d.guidance.guide import Guidance

    settings = {"group": 1} if "group" in METHODS[name].config.model_fields else {}
    inner = Guidance(folded, config(name, **settings), 10)
    z0, epsilon = (fold_latents(draw(2, 3, 4, 5, 6, seed=seed)) for seed in (1, 2))
    t, uniform = torch.tensor([100, 650]), torch.tensor([0.3, 0.8])
    cameras = turntable(2, 6)
    together, _ = inner.gradient(z0, PLAIN, cameras, 0, Draws(t=t, epsilon=epsilon, uniform=uniform), z0.flip(0))
    for i in range(2):
        one = slice(i, i + 1)
        draws = Draws(t=t[one], epsilon=epsilon[one], uniform=uniform[one])
        alone, _ = inner.gradient(z0[one], PLAIN, cameras[one], 0, draws, z0.flip(0)[one])
        torch.testing.assert_close(together[one], alone, atol=1e-4, rtol=1e-3)


def test_exchanging_clips_exchanges_gradients_and_frames_only_where_they_are_alone(make_exact) -> None:
    """C4: frames do not commute with a video prior, but do with one that sees each frame by itself."""
    for rho, commutes in ((0.0, True), (0.9, False)):
        means = {text: draw(3, 1, 5, 6, seed=s).expand(-1, 4, -1, -1).clone() for s, text in enumerate(("y", ""))}
        folded = FoldedPrior(ExactVideoPrior(means, rho=rho), 4)
        from sds3d.guidance.guide import Guidance

        inner = Guidance(folded, config(), 10)
        z0, epsilon = draw(2, 3, 4, 5, 6, seed=1), draw(2, 3, 4, 5, 6, seed=2)
        order = torch.tensor([1, 0, 2, 3])

        def gradient(z: Tensor, e: Tensor, t: Tensor, inner: Guidance = inner) -> Tensor:
            draws = Draws(t=t, epsilon=fold_latents(e), uniform=torch.full((2,), 0.5))
            return unfold_latents(inner.gradient(fold_latents(z), PLAIN, turntable(2, 6), 0, draws)[0], 4)

        t = torch.tensor([300, 600])
        straight = gradient(z0, epsilon, t)
        torch.testing.assert_close(gradient(z0.flip(0), epsilon.flip(0), t.flip(0)), straight.flip(0))
        mixed = gradient(z0[:, :, order], epsilon[:, :, order], t)
        assert torch.allclose(mixed, straight[:, :, order], atol=1e-4) == commutes


def test_the_gradient_is_that_of_the_formula_through_the_encoder(make_exact) -> None:
    """w (u + s (y - u) - eps) through z0 = A x + b, divided by clips and latent frames; the loss has it too."""
    codec = LinearCodec(draw(4, 3, seed=7), draw(4, seed=8))
    prior = make_exact(shape=(4, 4, 5, 6), codec=codec)
    guidance, rgb = guide(prior), clip().requires_grad_()
    loss, logs = guidance(rgb, PLAIN, turntable(2, 6), 0, torch.Generator().manual_seed(3))
    loss.backward()
    z0 = prior.encode(rgb.detach())
    draws = guidance.guide.draw(fold_latents(z0), 0, torch.Generator().manual_seed(3))
    gradient, _ = guidance.guide.gradient(fold_latents(z0), PLAIN, turntable(2, 6), 0, draws)
    expected = torch.einsum("bcfhw,ck->bfhwk", unfold_latents(gradient, 4), codec.matrix) / (2 * 4)
    torch.testing.assert_close(rgb.grad, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(step(guidance, rgb.detach()), expected, atol=1e-5, rtol=1e-4)
    assert not any(value.requires_grad or value.ndim for value in logs.values())
    assert logs["frame_rms_least"] <= logs["frame_rms_first"] <= logs["frame_rms_most"]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_length_of_a_clip_does_not_change_what_a_weight_means(reduction: str, make_exact) -> None:
    """C8: F and 2 F identical frames (same noise in each) give a shared parameter the same gradient under "mean"."""
    found = []
    for frames in (3, 6):
        means = {text: draw(3, 1, 5, 6, seed=s).expand(-1, frames, -1, -1).clone() for s, text in enumerate(("y", ""))}
        guidance = guide(ExactVideoPrior(means, rho=0.0), reduction=reduction)
        rgb = clip(1, 1).expand(-1, frames, -1, -1, -1)
        once = draw(1, 3, 1, 5, 6, seed=5).expand(-1, -1, frames, -1, -1)
        draws = Draws(t=torch.tensor([400]), epsilon=fold_latents(once), uniform=torch.full((1,), 0.5))
        guidance.guide.draw = lambda *_, draws=draws: draws  # type: ignore[method-assign]
        found.append(step(guidance, rgb).sum(dim=1))
    torch.testing.assert_close(found[1], found[0] * (1.0 if reduction == "mean" else 2.0))


def test_a_clip_is_drawn_to_the_prior_mean(make_exact) -> None:
    """C2 end to end: pixels descend to the clip whose latents are the mean."""
    prior = make_exact(std=0.3)
    guidance = ClipGuidance(prior, config(guidance_scale=1, weight="uniform", t_min=0.1, t_max=0.6), 10)
    rgb, target = clip(1), prior.decode(prior._means[:1])
    generator, before = torch.Generator().manual_seed(0), float((clip(1) - target).square().mean())
    tail = []
    for i in range(160):
        gradient, _ = guidance.image_gradient(rgb, PLAIN, turntable(1, 6), 0, generator)
        rgb = rgb - 0.2 * gradient
        tail.append(rgb if i >= 60 else 0)
    assert float((sum(tail[60:]) / 100 - target).square().mean()) < 0.01 * before


def test_cameras_of_clips_or_of_all_frames(make_exact) -> None:
    guidance, rgb = guide(make_exact()), clip()
    every = turntable(2, 6)[torch.arange(2).repeat_interleave(4)]
    found = [
        guidance.image_gradient(rgb, PLAIN, cameras, 0, torch.Generator().manual_seed(1))[0]
        for cameras in (turntable(2, 6), every)
    ]
    assert torch.equal(*found)
    with pytest.raises(ShapeError, match=r"cameras .* \[2\] or \[8\]"):
        guidance.image_gradient(rgb, PLAIN, turntable(3, 6), 0, torch.Generator())


# ---- filters over frames


def test_amplified_motion_keeps_the_mean_and_is_linear() -> None:
    """B11."""
    gradient = draw(2, 3, 4, 5, 6)
    assert torch.equal(clip_filters.amplify_motion(gradient, 1.0), gradient) or torch.allclose(
        clip_filters.amplify_motion(gradient, 1.0), gradient, atol=1e-6
    )
    louder = clip_filters.amplify_motion(gradient, 2.5)
    torch.testing.assert_close(louder.mean(2), gradient.mean(2))
    torch.testing.assert_close(louder.diff(dim=2), 2.5 * gradient.diff(dim=2), atol=1e-5, rtol=1e-4)
    still = gradient[:, :, :1].expand(-1, -1, 4, -1, -1)
    torch.testing.assert_close(clip_filters.amplify_motion(still, 3.0), still)


def test_what_is_disliked_in_the_first_frame_moves_nothing() -> None:
    still = draw(2, 3, 1, 4, 4).expand(-1, -1, 5, -1, -1)
    assert (clip_filters.relative_to_first(still) == 0).all()  # the same complaint in every frame
    moving = draw(2, 3, 5, 4, 4, seed=1)
    found = clip_filters.relative_to_first(moving + still)
    assert torch.allclose(found, moving - moving[:, :, :1], atol=1e-6) and (found[:, :, 0] == 0).all()


def test_smoothing_averages_neighbours_and_pins_zero_the_first() -> None:
    gradient = draw(1, 2, 4, 2, 2)
    smooth = clip_filters.smooth_frames(gradient, 3)
    torch.testing.assert_close(smooth[:, :, 1], gradient[:, :, :3].mean(2))
    torch.testing.assert_close(smooth[:, :, 0], gradient[:, :, :2].mean(2))
    pinned = clip_filters.pin_first(gradient)
    assert not pinned[:, :, 0].any() and torch.equal(pinned[:, :, 1:], gradient[:, :, 1:])


def test_equal_frames_have_equal_size_and_the_same_whole() -> None:
    pixels = draw(2, 4, 5, 6, 3) * torch.tensor([8.0, 1.0, 0.5, 0.0])[:, None, None, None]
    equal = clip_filters.equalise_frames(pixels)
    size = clip_filters.frame_rms(equal)
    torch.testing.assert_close(size[:, :3], size[:, :1].expand(-1, 3))
    assert not equal[:, 3].any() and equal.isfinite().all()


def test_filters_act_in_a_step(make_exact) -> None:
    prior, rgb = make_exact(), clip()
    plain = step(guide(prior), rgb)
    louder = step(guide(prior, clips=ClipConfig(amplify=2.0)), rgb)
    torch.testing.assert_close(louder, clip_filters.amplify_motion(plain.transpose(1, 2), 2.0).transpose(1, 2))
    pinned = step(guide(prior, clips=ClipConfig(pin_first=True)), rgb)
    assert not pinned[:, 0].any() and torch.equal(pinned[:, 1:], plain[:, 1:])
    equal = step(guide(prior, clips=ClipConfig(equal_frames=True)), rgb)
    torch.testing.assert_close(equal, clip_filters.equalise_frames(plain))


def test_a_clip_shown_backwards_gets_its_gradient_forwards(make_exact) -> None:
    """With a prior that is the same both ways, the gradient of the reversed clip is the reversed gradient."""
    prior, rgb = make_exact(), clip()
    backwards = guide(prior, clips=ClipConfig(reverse=1.0))
    generator = torch.Generator().manual_seed(3)
    torch.rand((), generator=generator)  # the coin
    expected = guide(prior).image_gradient(rgb.flip(1), PLAIN, turntable(2, 6), 0, generator)[0].flip(1)
    torch.testing.assert_close(step(backwards, rgb), expected)


def test_what_does_not_fit_is_refused(make_exact) -> None:
    prior = make_exact()
    with pytest.raises(ConfigError, match="'vsd' trains a copy of its prior, which video priors do not offer"):
        guide(prior, "vsd")
    with pytest.raises(ConfigError, match=r"still_start is on, but the autoencoder .* treats all frames alike"):
        guide(prior, clips=ClipConfig(still_start=True))
    with pytest.raises(ConfigError, match="The clip has 1 frame"):
        step(guide(prior), clip(frames=1))
    with pytest.raises(ShapeError, match=r"\[B, 4, H, W, 3\]"):
        step(guide(prior), clip(frames=3))
    with pytest.raises(ConfigError, match=r"image_weight compares pixels, but .* 10 x 12 .* works at 5 x 6"):
        step(guide(prior, image_weight=0.1), torch.rand(1, 4, 10, 12, 3))
    with pytest.raises(ValidationError, match="odd number of frames"):
        ClipConfig(smooth=2)
    with pytest.raises(ValidationError, match="pin_first holds frame 0 still"):
        ClipConfig(pin_first=True, reverse=0.5)
    prior.hears_text = False
    with pytest.raises(ConfigError, match=r"hears no text, so prompt\.negative = 'ugly'"):
        guide(prior).image_gradient(clip(), Prompt(text="y", negative="ugly"), turntable(2, 6), 0, torch.Generator())


# ---- deferred back-propagation


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_chunks_have_the_gradient_of_the_whole(chunk: int) -> None:
    """C6: a nonlinear encoder, picture by picture."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.SiLU(), torch.nn.Conv2d(4, 2, 3)).double()
    network.requires_grad_(False)
    pictures = draw(7, 3, 8, 8).double().requires_grad_()
    whole, parts = network(pictures), deferred(network, pictures, chunk)
    weights = draw(*whole.shape, seed=2).double()
    first, second = (torch.autograd.grad(z, pictures, weights)[0] for z in (whole, parts))
    torch.testing.assert_close(parts, whole, atol=1e-14, rtol=1e-13)
    torch.testing.assert_close(second, first, atol=1e-14, rtol=1e-13)


def test_deferred_frames_teach_a_renderer_what_all_frames_teach_it(make_exact) -> None:
    """Render without graph, one gradient in pixels, then frame by frame: the parameter gradient of a full pass."""
    guidance, basis = guide(make_exact()), draw(4, 5 * 6 * 3, 9, seed=3)

    def renderer(theta: Tensor) -> Callable[[slice], Tensor]:
        return lambda part: (basis[part] @ theta).sigmoid().reshape(-1, 5, 6, 3)

    full, frames = (draw(9, seed=4).requires_grad_() for _ in range(2))
    loss, _ = guidance(renderer(full)(slice(0, 4))[None], PLAIN, turntable(1, 6), 0, torch.Generator().manual_seed(3))
    loss.backward()
    shown = render_without_graph(renderer(frames), 4)
    assert not shown.requires_grad
    backward_by_frame(renderer(frames), step(guidance, shown[None])[0])
    torch.testing.assert_close(frames.grad, full.grad, atol=1e-6, rtol=1e-5)


def test_a_negative_chunk_is_refused() -> None:
    with pytest.raises(ConfigError, match="chunk of deferred back-propagation is -1"):
        deferred(lambda x: x, draw(2, 3), -1)


def test_a_folded_clip_must_be_whole_frames(make_exact) -> None:
    folded = FoldedPrior(make_exact(), 4)
    with pytest.raises(ShapeError, match=r"\[B, 4 H, W, 3\]"):
        folded.encode(torch.rand(1, 21, 6, 3))
    with pytest.raises(ConfigError, match="cannot train a score network"):
        folded.score_network(1, torch.Generator())
    assert FrameRule().latent_frames(4) == folded.latent_frames
