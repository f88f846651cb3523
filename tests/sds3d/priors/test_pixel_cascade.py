"""DeepFloyd IF stage I: pixels, T5 and a learned variance, against diffusers' own pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.errors import AssetError, ShapeError
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Query
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.pixel_cascade import PixelCascadePrior
from sds3d.prompts import Prompt


@pytest.fixture(scope="module")
def pipeline(if_folder: Path) -> Any:
    from diffusers import IFPipeline

    return IFPipeline.from_pretrained(if_folder, safety_checker=None, feature_extractor=None, watermarker=None)


@pytest.fixture(scope="module")
def prior(if_folder: Path) -> PixelCascadePrior:
    return PixelCascadePrior.from_folder(if_folder)


def test_texts_are_those_of_the_pipeline(prior: PixelCascadePrior, pipeline: Any) -> None:
    """Lower case, stripped, 77 tokens, padding masked."""
    prompt, negative = pipeline.encode_prompt(" A Red mug ", negative_prompt="ugly")
    assert prompt.shape == (1, 77, 32)
    assert torch.equal(prior.text([" A Red mug ", "ugly"]), torch.cat([prompt, negative]))
    assert torch.equal(prior.text(["a red mug"])[0], prompt[0])


def test_predictions_are_the_first_three_channels_of_the_pipelines_network(
    prior: PixelCascadePrior, pipeline: Any
) -> None:
    z = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([20, 500, 980])
    prompt, _ = pipeline.encode_prompt("a red mug")
    with torch.no_grad():
        output = pipeline.unet(z, t, encoder_hidden_states=prompt.expand(3, -1, -1)).sample
    assert output.shape == (3, 6, 8, 8)
    (epsilon,) = prior.predict([Query(z_t=z, t=t, text=prior.text(["a red mug"] * 3))])
    assert torch.equal(epsilon, output[:, :3])


def test_noise_levels_are_those_of_the_pipelines_scheduler(prior: PixelCascadePrior, pipeline: Any) -> None:
    alpha, _ = prior.alpha_sigma(torch.arange(1000))
    torch.testing.assert_close(alpha.flatten() ** 2, pipeline.scheduler.alphas_cumprod, atol=1e-6, rtol=1e-4)


def test_encoding_is_the_identity_to_minus_one_and_one(prior: PixelCascadePrior) -> None:
    rgb = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(prior.encode(rgb), rgb.permute(0, 3, 1, 2) * 2 - 1)
    torch.testing.assert_close(prior.decode(prior.encode(rgb)), rgb)
    large = torch.rand(1, 40, 24, 3, generator=torch.Generator().manual_seed(3)).requires_grad_()
    small = prior.encode(large)
    assert small.shape == (1, 3, 8, 8)
    small.sum().backward()
    assert large.grad is not None and large.grad.min() > 0, "shrinking averages: every pixel is heard"
    with pytest.raises(ShapeError, match=r"rgb has shape \[8, 8, 3\]"):
        prior.encode(rgb[0])


@pytest.mark.parametrize("name", ["sds", "vsd"])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_training_step_reaches_the_pixels(name: str, device: str, if_folder: Path) -> None:
    prior = PixelCascadePrior.from_folder(if_folder, device=device)
    row = METHODS[name]
    network = prior.score_network(2, torch.Generator().manual_seed(3)) if row.trains else None
    guide = Guidance(prior, row.config.model_validate({}), 10, {"psi": network} if network else None)
    rgb = torch.rand(2, 12, 12, 3, generator=torch.Generator().manual_seed(4)).to(device).requires_grad_()
    loss, _ = guide(rgb, Prompt(text="a red mug"), turntable(2, 12).to(device), 0, torch.Generator().manual_seed(5))
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
    if device == "cpu":
        assert rgb.grad.isfinite().all() and rgb.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_folders_of_the_other_kind_are_refused(if_folder: Path, sd_folder: Path) -> None:
    with pytest.raises(AssetError, match=r"has a UNet with 3 input channels, but .* needs 4"):
        LatentDiffusionPrior.from_folder(if_folder)
    with pytest.raises(AssetError, match=r"has a UNet with 4 input channels, but .* needs 3"):
        PixelCascadePrior.from_folder(sd_folder)
