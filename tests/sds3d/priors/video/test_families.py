"""What holds for every family: frozen, no graph, batches, shapes, autoencoders, texts, errors (C3, C4, C6, C10)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sds3d.errors import AssetError, ConfigError
from sds3d.priors.base import Query
from sds3d.priors.text_store import PromptCutWarning
from sds3d.priors.video.base import frames_first
from sds3d.priors.video.diffusion import DiffusersVideoPrior
from sds3d.priors.video.ltx import pack_latents, unpack_latents
from sds3d.priors.video.open import open_video_prior

FAMILIES = ("unet3d", "animatediff", "stacked-balanced", "svd", "wan", "cogvideox-rotary", "ltx")


@pytest.fixture(params=FAMILIES)
def prior(request: pytest.FixtureRequest, video_folder, video_settings) -> DiffusersVideoPrior:
    return open_video_prior(video_folder(request.param), settings=video_settings[request.param])


def clips(prior: DiffusersVideoPrior, count: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, prior.frames, *prior.size, 3, generator=torch.Generator().manual_seed(seed))


def query(prior: DiffusersVideoPrior, words: str = "a mug", count: int = 2) -> Query:
    shape = prior.encode(clips(prior, 1)).shape[1:]
    z_t = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
    control = clips(prior, count)[:, 0].permute(0, 3, 1, 2) if prior.needs_first_frame else None
    return Query(z_t=z_t, t=torch.tensor([300, 700])[:count], text=prior.text([words] * count), control=control)


def part(asked: Query, i: slice) -> Query:
    control = None if asked.control is None else asked.control[i]
    return Query(z_t=asked.z_t[i], t=asked.t[i], text=asked.text[i], control=control)


def test_two_clips_together_are_two_clips_apart(prior: DiffusersVideoPrior) -> None:
    """C4: group-major batches, and several queries in one call; words change the answer."""
    asked = query(prior)
    together, other = prior.predict([asked, query(prior, "")])
    assert together.dtype == torch.float32 and together.shape == asked.z_t.shape
    for i in (slice(0, 1), slice(1, 2)):
        torch.testing.assert_close(together[i], prior.predict([part(asked, i)])[0], atol=2e-5, rtol=2e-5)
    assert (together - other).abs().max() > 1e-5
    prior.settings = prior.settings.model_copy(update={"one_by_one": True})
    torch.testing.assert_close(prior.predict([asked, query(prior, "")])[1], other, atol=2e-5, rtol=2e-5)


def test_the_network_sees_a_clip_and_not_pictures(prior: DiffusersVideoPrior) -> None:
    """C4: exchanging frames does not exchange predictions, as it would for a model of single pictures."""
    asked = query(prior, count=1)
    (straight,) = prior.predict([asked])
    (mixed,) = prior.predict([Query(z_t=asked.z_t.flip(2), t=asked.t, text=asked.text, control=asked.control)])
    assert (straight.flip(2) - mixed).abs().max() > 1e-6 * straight.abs().max()
    moved = asked.z_t.clone()
    moved[:, :, -1] += 1.0
    (touched,) = prior.predict([Query(z_t=moved, t=asked.t, text=asked.text, control=asked.control)])
    assert (touched - straight)[:, :, 0].abs().max() > 1e-6, "the last frame matters to the first"


def test_nothing_is_trained_and_the_text_encoder_goes(prior: DiffusersVideoPrior) -> None:
    """C10."""
    asked = query(prior)
    z_t = asked.z_t.requires_grad_()
    (answer,) = prior.predict([Query(z_t=z_t, t=asked.t, text=asked.text, control=asked.control)])
    assert not answer.requires_grad
    networks = [prior.network, prior.codec.autoencoder, getattr(prior, "image_encoder", None) or prior.network]
    for network in networks:
        assert not network.training and not any(p.requires_grad for p in network.parameters())
    if prior.words is not None:
        kept = getattr(prior.words, "networks", None) or getattr(prior.words, "network", None)
        assert not kept, "the encoder is freed once predictions begin"
        assert torch.equal(prior.text(["a mug"])[0], asked.text[0]), "and its embeddings are remembered"


@pytest.mark.parametrize("name", [*FAMILIES, "ltx-first", "wan-i2v-clip", "cogvideox-i2v"])
def test_a_bfloat16_network_gives_float32_predictions(name: str, video_folder, video_settings) -> None:
    full, half = (
        open_video_prior(video_folder(name), dtype=dtype, settings=video_settings[name])
        for dtype in (torch.float32, torch.bfloat16)
    )
    (exact,), (found,) = full.predict([query(full)]), half.predict([query(half)])
    assert found.dtype == torch.float32 and half.text([""]).dtype == torch.bfloat16
    assert (found - exact).norm() < 0.05 * exact.norm()


def test_encode_has_the_documented_shape_scale_and_gradient(prior: DiffusersVideoPrior) -> None:
    rgb = clips(prior).requires_grad_()
    z0 = prior.encode(rgb)
    config = prior.codec.autoencoder.config
    height, width = (side // prior.codec.space_stride for side in prior.size)
    channels = config.get("latent_channels") or config["z_dim"]
    assert z0.shape == (2, channels, prior.latent_frames(prior.frames), height, width) and z0.dtype == torch.float32
    (gradient,) = torch.autograd.grad(z0.square().sum(), rgb)
    assert (gradient.flatten(2).abs().amax(dim=2) > 0).all(), "every frame gets a gradient"
    images = rgb.detach().permute(0, 4, 1, 2, 3) * 2 - 1
    vae = prior.codec.autoencoder
    if prior.codec.is_causal:
        raw = vae.encode(images).latent_dist.mode()
    else:
        raw = vae.encode(frames_first(images)).latent_dist.mode().unflatten(0, (2, -1)).transpose(1, 2)
    row = (1, -1, 1, 1, 1)
    if "wan" in prior.name:
        expected = (raw - torch.tensor([0.1, -0.2, 0.3, 0.4]).reshape(row)) / torch.tensor(
            [0.5, 1.5, 2.0, 0.8]
        ).reshape(row)
    elif "ltx" in prior.name:
        from diffusers import LTXPipeline

        expected = LTXPipeline._normalize_latents(raw, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)
        assert (vae.latents_mean != 0).all(), "the statistics come from the weight file"
    else:
        expected = raw * 0.7
    torch.testing.assert_close(z0, expected, atol=1e-5, rtol=1e-5)


def test_decode_undoes_the_affine_map_and_gives_all_frames(prior: DiffusersVideoPrior) -> None:
    rgb = clips(prior, 1)
    z0 = prior.encode(rgb)
    decoded = prior.decode(z0)
    assert decoded.shape == rgb.shape
    raw = z0 / prior.codec.scale + prior.codec.shift
    vae = prior.codec.autoencoder
    images = rgb.permute(0, 4, 1, 2, 3) * 2 - 1
    again = vae.encode(images if prior.codec.is_causal else frames_first(images)).latent_dist.mode()
    again = again if prior.codec.is_causal else again[None].transpose(1, 2)
    torch.testing.assert_close(raw, again, atol=1e-5, rtol=1e-5)


def test_deferred_encoding_has_the_gradient_of_the_full_graph(prior: DiffusersVideoPrior) -> None:
    """C6: picture by picture (or clip by clip) and all at once: the same latents and the same gradient."""
    found = []
    for chunk in (0, 1, 2):
        prior.codec.chunk = min(chunk, 1) if prior.codec.is_causal else chunk
        rgb = clips(prior).requires_grad_()
        z0 = prior.encode(rgb)
        weights = torch.randn(z0.shape, generator=torch.Generator().manual_seed(3))
        (gradient,) = torch.autograd.grad(z0, rgb, weights)
        found.append((z0.detach(), gradient))
    for z0, gradient in found[1:]:
        torch.testing.assert_close(z0, found[0][0], atol=1e-6, rtol=1e-5)
        size = float(found[0][1].abs().max())  # kernels of another batch size round differently
        torch.testing.assert_close(gradient, found[0][1], atol=1e-5 * size, rtol=1e-5)


def test_frames_of_another_size_are_resized(prior: DiffusersVideoPrior) -> None:
    small = torch.rand(1, prior.frames, 20, 28, 3, generator=torch.Generator().manual_seed(0))
    assert prior.encode(small).shape == prior.encode(clips(prior, 1)).shape


def test_clips_that_do_not_fit_are_refused_by_name(prior: DiffusersVideoPrior) -> None:
    with pytest.raises(
        ConfigError, match=rf"The clip has 1 frame, but the video prior '{prior.name}' takes .*Set frames"
    ):
        prior.encode(torch.rand(1, 1, *prior.size, 3))
    if prior.codec.is_causal:
        with pytest.raises(ConfigError, match=r"has 4 frames, .* k \+ 1 frames from"):
            prior.encode(torch.rand(1, 4, *prior.size, 3))


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "wan",
            {"frames": 8},
            r"8 frames, but the video prior 'wan' takes 4 k \+ 1 frames from 5\. Set frames to 5 or 9",
        ),
        ("ltx", {"frames": 12}, r"8 k \+ 1 .* Set frames to 9 or 17"),
        ("animatediff", {"frames": 7}, r"from 2 to 6\. Set frames to 6"),
        (
            "wan",
            {"height": 40, "width": 48},
            r"40 x 48 pixels, but .* multiples of 16\. Set height to 32 and width to 48",
        ),
        ("unet3d", {"height": 17, "width": 16}, r"multiples of 2\. Set height to 16"),
        ("wan", {"experts": "high"}, r"experts is 'high', but .* has one network"),
    ],
)
def test_settings_that_do_not_fit_are_refused(name: str, changes, message: str, video_folder, video_settings) -> None:
    settings = video_settings[name].model_copy(update=changes)
    with pytest.raises(ConfigError, match=message):
        open_video_prior(video_folder(name), settings=settings)


def test_long_texts_are_cut_with_the_words_lost(video_folder, video_settings) -> None:
    prior = open_video_prior(video_folder("ltx"), settings=video_settings["ltx"])
    with pytest.warns(PromptCutWarning, match="zebra'"):
        prior.text(["a " * 70 + "zebra"])
    assert prior.text(["", "\U0001d518ni\udc80code"]).isfinite().all()


def test_svd_hears_no_words_but_its_picture(video_folder, video_settings) -> None:
    prior = open_video_prior(video_folder("svd"), settings=video_settings["svd"])
    asked, empty, other = (query(prior, words) for words in ("a mug", "", "a car"))
    answers = prior.predict([asked, empty, other])
    assert torch.equal(answers[0], answers[2]) and (answers[0] - answers[1]).abs().max() > 1e-5
    black = Query(z_t=asked.z_t, t=asked.t, text=asked.text, control=torch.zeros_like(asked.control))
    assert (prior.predict([black])[0] - answers[0]).abs().max() > 1e-6
    with pytest.raises(ConfigError, match="animates a picture, but no first frame is given"):
        prior.predict([Query(z_t=asked.z_t, t=asked.t, text=asked.text)])


def test_packing_is_that_of_the_pipeline_and_is_undone() -> None:
    from diffusers import LTXPipeline

    z = torch.randn(2, 3, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    for side, depth in ((1, 1), (2, 1), (2, 2)):
        tokens = pack_latents(z, side, depth)
        assert torch.equal(tokens, LTXPipeline._pack_latents(z, side, depth))
        assert torch.equal(unpack_latents(tokens, (4 // depth, 6 // side, 8 // side), side, depth), z)


def test_folders_of_pictures_and_half_models_are_refused(video_folder, tmp_path: Path) -> None:
    pictures = video_folder("animatediff").with_name("animatediff-sd")
    with pytest.raises(AssetError, match="has no motion modules, and motion_adapter is None"):
        open_video_prior(pictures)
    shutil.copytree(video_folder("wan"), tmp_path / "wan")
    config = tmp_path / "wan" / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "FluxTransformer2DModel"}))
    with pytest.raises(AssetError, match="is a FluxTransformer2DModel, which is no video model that can be run; known"):
        open_video_prior(tmp_path / "wan")
    shutil.copytree(video_folder("ltx"), tmp_path / "ltx")
    (tmp_path / "ltx" / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(AssetError, match="not a whole safetensors file"):
        open_video_prior(tmp_path / "ltx")
