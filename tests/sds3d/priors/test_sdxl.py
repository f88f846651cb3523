"""Stable Diffusion XL: two text encoders, pooled vector and size numbers, against diffusers' own pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError
from sds3d.guidance.branches import Branch
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.guidance.words import Words
from sds3d.priors.base import NULL_TEXT, Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.packing import pack, unpack
from sds3d.prompts import Prompt

POOLED = 20


@pytest.fixture(scope="module")
def pipeline(sdxl_folder: Path) -> Any:
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(sdxl_folder, add_watermarker=False)


@pytest.fixture(scope="module")
def prior(sdxl_folder: Path) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_folder(sdxl_folder)


def point(batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    return z, torch.tensor([20, 500, 980])[:batch]


def test_texts_are_those_of_the_pipeline(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    prompt, negative, pooled, negative_pooled = pipeline.encode_prompt("a red mug", negative_prompt="ugly")
    packed = prior.text(["a red mug", "ugly"])
    assert packed.shape == (2, 24 + 1, 40), "24 tokens, and one row for the 20 pooled numbers"
    assert torch.equal(packed, pack(torch.cat([prompt, negative]), torch.cat([pooled, negative_pooled])))


def test_empty_negative_and_null_are_three_things(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    assert prior.null_text == NULL_TEXT, "this pipeline takes zeros where no negative prompt is given"
    _, null, _, null_pooled = pipeline.encode_prompt("a red mug")
    _, empty, _, empty_pooled = pipeline.encode_prompt("a red mug", negative_prompt="")
    texts = prior.text([NULL_TEXT, "", "ugly"])
    assert torch.equal(texts[:2], pack(torch.cat([null, empty]), torch.cat([null_pooled, empty_pooled])))
    assert texts[0].abs().max() == 0 and texts[1].abs().max() > 0
    assert (texts[1] - texts[2]).abs().max() > 1e-3


@pytest.mark.parametrize("clip_skip", [1])
def test_clip_skip_counts_like_the_pipeline(sdxl_folder: Path, pipeline: Any, clip_skip: int) -> None:
    prompt, _, pooled, _ = pipeline.encode_prompt("a red mug", clip_skip=clip_skip)
    other = LatentDiffusionPrior.from_folder(sdxl_folder, clip_skip=clip_skip)
    assert torch.equal(other.text(["a red mug"]), pack(prompt, pooled))


def test_predictions_are_those_of_the_pipeline(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    z, t = point()
    prompt, _, pooled, _ = pipeline.encode_prompt("a red mug")
    side = (prior.image_size, prior.image_size)
    time_ids = pipeline._get_add_time_ids(side, (0, 0), side, prompt.dtype, POOLED)
    with torch.no_grad():
        expected = pipeline.unet(
            z,
            t,
            encoder_hidden_states=prompt.expand(2, -1, -1),
            added_cond_kwargs={"text_embeds": pooled.expand(2, -1), "time_ids": time_ids.expand(2, -1)},
        ).sample
    (epsilon,) = prior.predict([Query(z_t=z, t=t, text=prior.text(["a red mug"] * 2))])
    assert side == (16, 16) and time_ids.tolist() == [[16, 16, 0, 0, 16, 16]]
    assert torch.equal(epsilon, expected)


def test_the_pooled_vector_is_heard_and_a_batch_is_single_samples(prior: LatentDiffusionPrior) -> None:
    z, t = point(3)
    texts = prior.text(["a red mug", "", "a car"])
    (together,) = prior.predict([Query(z_t=z, t=t, text=texts)])
    for i in range(3):
        (alone,) = prior.predict([Query(z_t=z[i : i + 1], t=t[i : i + 1], text=texts[i : i + 1])])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
    tokens, pooled = unpack(texts, POOLED)
    (other,) = prior.predict([Query(z_t=z, t=t, text=pack(tokens, pooled.flip(0)))])
    assert (other - together).abs().amax(dim=(1, 2, 3))[[0, 2]].min() > 1e-5


def test_latents_have_the_scale_of_the_configuration(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean = pipeline.vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
        torch.testing.assert_close(prior.encode(rgb), 0.13025 * mean)
        z0 = prior.encode(rgb)
        decoded = pipeline.vae.decode(z0 / pipeline.vae.config.scaling_factor).sample.permute(0, 2, 3, 1) / 2 + 0.5
        torch.testing.assert_close(prior.decode(z0), decoded, atol=1e-5, rtol=1e-5)


def test_an_autoencoder_that_overflows_in_float16_runs_in_float32(sdxl_folder: Path, tmp_path: Path) -> None:
    asked = LatentDiffusionPrior.from_folder(sdxl_folder, vae_dtype=torch.float16)
    assert asked.autoencoder.dtype == asked.codec.dtype == torch.float32
    safe = shutil.copytree(sdxl_folder, tmp_path / "safe")
    config = json.loads((safe / "vae/config.json").read_text())
    (safe / "vae/config.json").write_text(json.dumps(config | {"force_upcast": False}))
    assert LatentDiffusionPrior.from_folder(safe, vae_dtype=torch.float16).autoencoder.dtype == torch.float16


def test_means_and_spreads_of_channels_are_read(sdxl_folder: Path, tmp_path: Path, prior: LatentDiffusionPrior) -> None:
    folder = shutil.copytree(sdxl_folder, tmp_path / "means")
    config = json.loads((folder / "vae/config.json").read_text())
    numbers = {"latents_mean": [-1.6, 1.4, 0.2, -0.9], "latents_std": [8.4, 5.9, 6.2, 4.5]}
    (folder / "vae/config.json").write_text(json.dumps(config | numbers))
    other = LatentDiffusionPrior.from_folder(folder)
    rgb = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    mean, spread = (torch.tensor(value).reshape(1, 4, 1, 1) for value in numbers.values())
    torch.testing.assert_close(other.encode(rgb) * spread / 0.13025 + mean, prior.encode(rgb) / 0.13025)
    torch.testing.assert_close(other.decode(other.encode(rgb)), prior.decode(prior.encode(rgb)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["sds", "vsd"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_training_step_reaches_the_pixels(name: str, device: str, sdxl_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(sdxl_folder, device=device)
    row = METHODS[name]
    network = prior.score_network(2, torch.Generator().manual_seed(3)) if row.trains else None
    guide = Guidance(prior, row.config.model_validate({}), 10, {"psi": network} if network else None)
    rgb = torch.rand(2, 20, 20, 3, generator=torch.Generator().manual_seed(4)).to(device).requires_grad_()
    prompt = Prompt(text="a red mug", negative="ugly")
    loss, _ = guide(rgb, prompt, turntable(2, 20).to(device), 0, torch.Generator().manual_seed(5))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
    if device == "cpu":
        assert rgb.grad.isfinite().all() and rgb.grad.abs().amax(dim=(1, 2, 3)).min() > 0
    if network is not None:
        assert all(adapter.up.grad is not None for adapter in network.adapters)


def test_the_score_network_starts_as_the_prior_and_leaves_it_alone(prior: LatentDiffusionPrior) -> None:
    z, t = point()
    query = Query(z_t=z, t=t, text=prior.text(["a red mug"] * 2))
    before = prior.predict([query])[0]
    network = prior.score_network(2, torch.Generator().manual_seed(0))
    assert torch.equal(network.predict([query])[0], before)
    for adapter in network.adapters:
        torch.nn.init.normal_(adapter.up, std=0.1)
    assert (network.predict([query])[0] - before).abs().max() > 1e-3
    assert torch.equal(prior.predict([query])[0], before)


def test_unprompted_means_zeros_in_a_method_and_a_negative_prompt_replaces_them(prior: LatentDiffusionPrior) -> None:
    cameras = turntable(2, 16)
    plain = Words(prior, Prompt(text="a red mug"), cameras)
    negative = Words(prior, Prompt(text="a red mug", negative="ugly"), cameras)
    assert plain.text(Branch("u")).abs().max() == plain.text(Branch("0")).abs().max() == 0
    assert negative.text(Branch("0")).abs().max() == 0
    assert torch.equal(negative.text(Branch("u")), prior.text(["ugly", "ugly"]))


def test_the_refiner_and_half_pipelines_are_refused(sdxl_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl_folder, tmp_path / "p")
    config = json.loads((folder / "unet/config.json").read_text())
    (folder / "unet/config.json").write_text(json.dumps(config | {"projection_class_embeddings_input_dim": 60}))
    with pytest.raises(AssetError, match=r"\(the refiner's\?\), but .* needs those of the SDXL base model"):
        LatentDiffusionPrior.from_folder(folder)
    (folder / "unet/config.json").write_text(json.dumps(config))
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"text_encoder": [None, None]}))
    with pytest.raises(AssetError, match=r"has 1 text encoders \(text_encoder_2\), but .* needs 2"):
        LatentDiffusionPrior.from_folder(folder)
