"""The Stable Diffusion 1.x / 2.x / Turbo family against diffusers' own pipeline: every parametrisation, clip skip."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.sampling import sample_latents
from sds3d.prompts import Prompt


def edited(folder: Path, target: Path, file: str, **changes: object) -> Path:
    """Return a copy of a pipeline folder with other values in one of its JSON files."""
    shutil.copytree(folder, target)
    config = json.loads((target / file).read_text())
    (target / file).write_text(json.dumps(config | changes))
    return target


@pytest.fixture(scope="module")
def pipeline(sd_folder: Path) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(sd_folder, safety_checker=None, feature_extractor=None)


@pytest.fixture(scope="module")
def prior(sd_folder: Path) -> LatentDiffusionPrior:
    return LatentDiffusionPrior.from_folder(sd_folder)


def point() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([20, 500, 980])


def test_texts_are_those_of_the_pipeline(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    prompt, negative = pipeline.encode_prompt("a red mug", "cpu", 1, True, "ugly")
    _, empty = pipeline.encode_prompt("a red mug", "cpu", 1, True)
    assert torch.equal(prior.text(["a red mug", "ugly", ""]), torch.cat([prompt, negative, empty]))
    assert prior.null_text == "", "this family was trained with the empty text"


@pytest.mark.parametrize("clip_skip", [1, 2])
def test_clip_skip_leaves_out_the_last_layers(sd_folder: Path, tmp_path: Path, clip_skip: int) -> None:
    """Our hidden state is the one transformers gives a model that has these layers only."""
    asked = LatentDiffusionPrior.from_folder(sd_folder, clip_skip=clip_skip)
    said = shutil.copytree(sd_folder, tmp_path / "said")
    (said / "sds3d.json").write_text(json.dumps({"clip_skip": clip_skip}))
    from_file = LatentDiffusionPrior.from_folder(said)
    shorter = edited(sd_folder, tmp_path / "short", "text_encoder/config.json", num_hidden_layers=3 - clip_skip)
    expected = LatentDiffusionPrior.from_folder(shorter).text(["a red mug"])
    assert torch.equal(asked.text(["a red mug"]), expected) and torch.equal(from_file.text(["a red mug"]), expected)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_predictions_are_those_of_the_pipeline(kind: str, sd_folder: Path, pipeline: Any, tmp_path: Path) -> None:
    from diffusers import DDIMScheduler

    folder = edited(sd_folder, tmp_path / "p", "scheduler/scheduler_config.json", prediction_type=kind)
    prior = LatentDiffusionPrior.from_folder(folder)
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(1000)
    z, t = point()
    prompt, _ = pipeline.encode_prompt("a red mug", "cpu", 1, False)
    with torch.no_grad():
        output = pipeline.unet(z, t, encoder_hidden_states=prompt.expand(3, -1, -1)).sample
    query = Query(z_t=z, t=t, text=prior.text(["a red mug"] * 3))
    assert torch.equal(prior.output(query), output)
    (epsilon,) = prior.predict([query])
    alpha, sigma = prior.alpha_sigma(t)
    for i in range(3):
        step = scheduler.step(output[i : i + 1], t[i], z[i : i + 1])
        clean = (z - sigma * epsilon)[i : i + 1] / alpha[i]
        torch.testing.assert_close(clean, step.pred_original_sample, atol=2e-4, rtol=2e-4)


def test_latents_have_scale_and_shift_of_the_configuration(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    rgb = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        mean = pipeline.vae.encode(rgb.permute(0, 3, 1, 2) * 2 - 1).latent_dist.mean
        torch.testing.assert_close(prior.encode(rgb), 0.18215 * (mean - 0.07))
        decoded = pipeline.vae.decode(prior.encode(rgb) / 0.18215 + 0.07).sample
    torch.testing.assert_close(prior.decode(prior.encode(rgb)), decoded.permute(0, 2, 3, 1) / 2 + 0.5)


def test_sampling_draws_what_the_pipeline_draws(prior: LatentDiffusionPrior, pipeline: Any) -> None:
    """Eight DDIM steps of diffusers at our times, from the same noise."""
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    ours = sample_latents(prior, noise, "a red mug", turntable(1, 16), scale=3.0, steps=9)
    times = torch.linspace(999, 0, 10).round().long()
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=False)
    scheduler.set_timesteps(9)
    prompt, negative = pipeline.encode_prompt("a red mug", "cpu", 1, True)
    z = noise
    for now in times[:-1]:
        with torch.no_grad():
            y, u = (pipeline.unet(z, now, encoder_hidden_states=text).sample for text in (prompt, negative))
        scheduler.num_inference_steps = 9  # its step is 111 = 999 / 9 timesteps long, as ours
        step = scheduler.step(u + 3.0 * (y - u), int(now), z)
        z, clean = step.prev_sample, step.pred_original_sample
    torch.testing.assert_close(ours, clean, atol=1e-3, rtol=1e-3)


def test_sampling_starts_where_there_is_signal(sd_folder: Path, tmp_path: Path) -> None:
    file = "scheduler/scheduler_config.json"
    changes = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    prior = LatentDiffusionPrior.from_folder(edited(sd_folder, tmp_path / "p", file, **changes))
    assert float(prior.alpha_sigma(torch.tensor([999]))[0]) == 0.0
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert sample_latents(prior, noise, "a red mug", turntable(1, 16), steps=3).isfinite().all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("name", ["sds", "vsd"])
def test_a_training_step_reaches_the_pixels(name: str, device: str, sd_folder: Path) -> None:
    prior = LatentDiffusionPrior.from_folder(sd_folder, device=device)
    row = METHODS[name]
    network = prior.score_network(2, torch.Generator().manual_seed(3)) if row.trains else None
    guide = Guidance(prior, row.config.model_validate({}), 10, {"psi": network} if network else None)
    rgb = torch.rand(2, 20, 20, 3, generator=torch.Generator().manual_seed(4)).to(device).requires_grad_()
    loss, _ = guide(rgb, Prompt(text="a red mug"), turntable(2, 20).to(device), 0, torch.Generator().manual_seed(5))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
    if device == "cpu":
        assert rgb.grad.isfinite().all() and rgb.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_inpainting_networks_are_refused(sd_folder: Path, tmp_path: Path) -> None:
    folder = edited(sd_folder, tmp_path / "p", "unet/config.json", in_channels=9)
    with pytest.raises(AssetError, match=r"has a UNet with 9 input channels, but .* needs 4"):
        LatentDiffusionPrior.from_folder(folder)
