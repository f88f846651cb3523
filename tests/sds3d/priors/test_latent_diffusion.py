"""The latent diffusion prior on a tiny random diffusers folder: the code path of Stable Diffusion, without weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError, ShapeError
from sds3d.priors.base import Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior

TEXTS = ("a red mug", "a car", "")


@pytest.fixture(scope="module")
def prior(tiny_folder: Path) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_folder(tiny_folder)


@pytest.fixture(scope="module")
def kl_prior(kl_folder: Path) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_folder(kl_folder)


def query(prior: LatentDiffusionPrior, text: str = "a red mug", batch: int = 3, camera: bool = True) -> Query:
    noise = torch.randn(batch, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    features = prior.camera_features(turntable(batch, 32)) if camera else None
    t = torch.tensor([20, 500, 980])[:batch]
    return Query(z_t=noise, t=t, text=prior.text([text] * batch), camera=features)


def test_from_folder_reads_everything_from_the_configurations(
    prior: LatentDiffusionPrior, kl_prior: LatentDiffusionPrior
) -> None:
    assert (prior.image_size, prior.num_timesteps, prior.num_tokens) == (32, 1000, 24)
    assert prior.has_camera and not kl_prior.has_camera
    assert prior.parametrisation == "v_prediction" and kl_prior.parametrisation == "epsilon"
    assert prior.metadata.known_words == {"mug", "car", "red", "a", "on"}
    assert prior.metadata.unknown_words("a red Zebra on a mug, zebra") == ("zebra",)
    for network in (prior.unet, *prior.text_encoders.networks, prior.autoencoder):
        assert not network.training and not any(p.requires_grad for p in network.parameters())


def test_noise_levels_match_diffusers_scheduler(prior: LatentDiffusionPrior, tiny_folder: Path) -> None:
    from diffusers import DDPMScheduler

    bar = DDPMScheduler.from_pretrained(tiny_folder / "scheduler").alphas_cumprod
    alpha, sigma = prior.alpha_sigma(torch.arange(1000))
    assert alpha.shape == (1000, 1, 1, 1) and alpha.dtype == torch.float32
    torch.testing.assert_close(alpha.flatten() ** 2, bar, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sigma.flatten() ** 2, 1 - bar, atol=1e-6, rtol=1e-5)


def test_predict_gives_epsilon_form_of_the_v_network(prior: LatentDiffusionPrior) -> None:
    asked = query(prior)
    (epsilon,) = prior.predict([asked])
    with torch.no_grad():
        v = prior.unet(asked.z_t, asked.t, encoder_hidden_states=asked.text, class_labels=asked.camera).sample
    alpha, sigma = prior.alpha_sigma(asked.t)
    torch.testing.assert_close(epsilon, alpha * v + sigma * asked.z_t)
    clean_from_v = alpha * asked.z_t - sigma * v
    torch.testing.assert_close((asked.z_t - sigma * epsilon) / alpha, clean_from_v, atol=1e-3, rtol=1e-3)
    assert epsilon.dtype == torch.float32 and not epsilon.requires_grad


def test_one_network_call_answers_all_queries(prior: LatentDiffusionPrior, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [query(prior), query(prior, ""), query(prior, "a car", camera=False), query(prior, batch=1)]
    apart = [prior.predict([one])[0] for one in asked]
    calls: list[int] = []
    forward = prior.unet.forward
    monkeypatch.setattr(prior.unet, "forward", lambda z, *a, **k: (calls.append(len(z)), forward(z, *a, **k))[1])
    together = prior.predict(asked)
    assert calls == [10] and [len(p) for p in together] == [3, 3, 3, 1]
    for one, other in zip(apart, together, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_text_and_camera_change_the_prediction_and_a_missing_camera_is_zeros(prior: LatentDiffusionPrior) -> None:
    seen, other_text, no_camera = prior.predict([query(prior), query(prior, "a car"), query(prior, camera=False)])
    assert (seen - other_text).abs().max() > 1e-4
    assert (seen - no_camera).abs().max() > 1e-4
    asked = query(prior)
    assert asked.camera is not None
    zeros = Query(z_t=asked.z_t, t=asked.t, text=asked.text, camera=torch.zeros_like(asked.camera))
    torch.testing.assert_close(prior.predict([zeros])[0], no_camera, atol=1e-5, rtol=1e-5)
    opposite = Query(z_t=asked.z_t, t=asked.t, text=asked.text, camera=asked.camera.roll(1, 0))
    assert (prior.predict([opposite])[0] - seen).abs().amax(dim=(1, 2, 3)).min() > 1e-4


def test_the_unet_repeats_bit_by_bit(prior: LatentDiffusionPrior) -> None:
    first, second = prior.predict([query(prior)])[0], prior.predict([query(prior)])[0]
    assert torch.equal(first, second)


def test_text_embeddings_are_cached_and_do_not_depend_on_company(tiny_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(tiny_folder)
    together = prior.text(TEXTS)
    assert together.shape == (3, 24, 16)
    alone = LatentDiffusionPrior.from_folder(tiny_folder).text(["a car"])
    assert torch.equal(together[1], alone[0])
    assert together[2].abs().max() > 0, "the empty prompt is an encoded text, not zeros"
    prior.free_text_encoders()  # a cached text needs no encoder any more
    assert torch.equal(prior.text(["", "a car"]), together[[2, 1]]) and not prior.text_encoders.networks
    assert prior.text(["a mug"]).shape == (1, 24, 16) and prior.text_encoders.networks, "a new text loads it again"


@pytest.mark.parametrize("which", ["prior", "kl_prior"])
def test_encode_is_differentiable_and_scaled(which: str, request: pytest.FixtureRequest) -> None:
    model: LatentDiffusionPrior = request.getfixturevalue(which)
    rgb = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(2)).requires_grad_()
    z0 = model.encode(rgb)
    assert z0.shape == (2, 4, 8, 8) and z0.dtype == torch.float32
    (gradient,) = torch.autograd.grad(z0.sum(), rgb)
    assert gradient.shape == rgb.shape and gradient.abs().max() > 0
    encoded = model.autoencoder.encode(rgb.permute(0, 3, 1, 2) * 2 - 1)
    raw = encoded.latents if which == "prior" else encoded.latent_dist.mean
    shift = 0.0 if which == "prior" else 0.1
    torch.testing.assert_close(z0, 0.7 * (raw - shift))
    expected = model.autoencoder.decode(raw).sample.permute(0, 2, 3, 1) / 2 + 0.5
    torch.testing.assert_close(model.decode(z0), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(model.encode(rgb), z0), "encoding has no randomness"


def test_encode_resizes_and_checks_the_layout(prior: LatentDiffusionPrior) -> None:
    assert prior.encode(torch.rand(1, 20, 48, 3)).shape == (1, 4, 8, 8)
    with pytest.raises(ShapeError, match=r"rgb has shape \[1, 3, 32, 32\], but \[B, H, W, 3\] is needed"):
        prior.encode(torch.rand(1, 3, 32, 32))


def test_bfloat16_network_gives_float32_predictions_close_to_float32(
    prior: LatentDiffusionPrior, tiny_folder: Path
) -> None:
    half = LatentDiffusionPrior.from_folder(tiny_folder, dtype=torch.bfloat16)
    assert half.unet.dtype == torch.bfloat16 and half.autoencoder.dtype == torch.float32
    (low,), (full,) = half.predict([query(half)]), prior.predict([query(prior)])
    assert low.dtype == torch.float32
    assert (low - full).norm() / full.norm() < 0.05
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (inside,) = prior.predict([query(prior)])
    assert torch.equal(inside, full), "an outer autocast must not reach the network"


def test_variant_files_are_found(tiny_folder: Path, tmp_path: Path, prior: LatentDiffusionPrior) -> None:
    shutil.copytree(tiny_folder, tmp_path / "p")
    for part, stem in {"unet": "diffusion_pytorch_model", "text_encoder": "model"}.items():
        file = tmp_path / "p" / part / f"{stem}.safetensors"
        file.rename(file.with_name(f"{stem}.fp16.safetensors"))
    other = LatentDiffusionPrior.from_folder(tmp_path / "p")
    assert torch.equal(other.predict([query(other)])[0], prior.predict([query(prior)])[0])


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        (
            "unet/config.json",
            "addition_embed_type",
            "text_time",
            "other inputs than SDXL's",
        ),
        ("unet/config.json", "class_embed_type", "timestep", "class_embed_type 'timestep'"),
        ("unet/config.json", "projection_class_embeddings_input_dim", 16, "16 camera inputs.*needs 32"),
        ("unet/config.json", "_class_name", "UNet3DConditionModel", "needs a UNet2DConditionModel"),
        ("vae/config.json", "_class_name", "VQModel", "AutoencoderKL or AutoencoderTiny"),
        (
            "scheduler/scheduler_config.json",
            "prediction_type",
            "flow_prediction",
            "needs epsilon, v_prediction, sample",
        ),
        ("text_encoder/config.json", "hidden_size", 24, "text_encoder of the prior .* cannot be loaded"),
    ],
)
def test_foreign_folders_are_refused(
    broken_copy, tiny_folder: Path, file: str, key: str, value: object, message: str
) -> None:
    config = json.loads((tiny_folder / file).read_text())
    folder = broken_copy(file, json.dumps(config | {key: value}).encode())
    with pytest.raises(AssetError, match=message):
        LatentDiffusionPrior.from_folder(folder)


@pytest.mark.parametrize(
    ("part", "stem", "lost"),
    [
        ("unet", "diffusion_pytorch_model", "conv_in.weight"),
        ("vae", "diffusion_pytorch_model", "encoder.layers.0.weight"),
        ("text_encoder", "model", "final_layer_norm.weight"),
    ],
)
def test_a_missing_tensor_is_an_error_not_a_random_number(
    broken_copy, tiny_folder: Path, part: str, stem: str, lost: str
) -> None:
    from safetensors.torch import load_file, save

    tensors = load_file(tiny_folder / part / f"{stem}.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.endswith(lost)}
    assert len(kept) == len(tensors) - 1
    folder = broken_copy(f"{part}/{stem}.safetensors", save(kept, {"format": "pt"}))
    with pytest.raises(AssetError, match=f"The {part} of the prior .* cannot be loaded"):
        LatentDiffusionPrior.from_folder(folder)


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(
    tiny_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = [(m.get_verbosity(), m.is_progress_bar_enabled()) for m in (diffusers_logging, transformers_logging)]
    capfd.readouterr()
    LatentDiffusionPrior.from_folder(tiny_folder)
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
    assert [
        (m.get_verbosity(), m.is_progress_bar_enabled()) for m in (diffusers_logging, transformers_logging)
    ] == before
