"""The published networks at their true sizes, without data: do texts, conditions and pictures fit together?

Configurations: unet/config.json, vae/config.json and text encoders of stable-diffusion-v1-5, stable-diffusion-2-1 and
stable-diffusion-xl-base-1.0, reduced to the keys that differ from diffusers' defaults.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sds3d.cameras import turntable
from sds3d.guidance.guide import Guidance
from sds3d.guidance.methods import METHODS
from sds3d.priors.controlnet import ControlNets
from sds3d.priors.folder import PriorFolder
from sds3d.priors.latent_diffusion import LatentDiffusionPrior, check_supported
from sds3d.priors.unet_prior import pooled_size
from sds3d.prompts import Prompt

VAE = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
UNET = {"_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4}
LEVELS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ROWS: dict[str, dict[str, Any]] = {
    "sd15": {
        "unet": UNET | {"cross_attention_dim": 768},
        "vae": VAE,
        "scheduler": LEVELS,
        "text_encoder": {"hidden_size": 768},
    },
    "sd21": {
        "unet": UNET
        | {
            "sample_size": 96,
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        "vae": VAE,
        "scheduler": LEVELS | {"prediction_type": "v_prediction"},
        "text_encoder": {"hidden_size": 1024},
    },
    "sdxl": {
        "unet": UNET
        | {
            "sample_size": 128,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
            "attention_head_dim": [5, 10, 20],
            "block_out_channels": [320, 640, 1280],
            "cross_attention_dim": 2048,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
            "transformer_layers_per_block": [1, 2, 10],
            "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "use_linear_projection": True,
        },
        "vae": VAE | {"scaling_factor": 0.13025, "force_upcast": True},
        "scheduler": LEVELS,
        "text_encoder": {"hidden_size": 768},
        "text_encoder_2": {"hidden_size": 1280, "projection_dim": 1280},
    },
}
EXPECTED = {"sd15": (512, 77, 859.5), "sd21": (768, 77, 865.9), "sdxl": (1024, 78, 2567.5)}
"""Image side, rows of a text, millions of parameters of the UNet (the published counts)."""


def prior_of(name: str, channels: int) -> LatentDiffusionPrior:
    """Return the prior on "meta", with a ControlNet of so many condition channels if it is more than 0."""
    from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel

    configs = ROWS[name]
    folder = PriorFolder(path=Path(name), metadata=SimpleNamespace(image_size=None), configs=configs)  # type: ignore
    check_supported(folder)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(configs["unet"])
        autoencoder = AutoencoderKL.from_config(configs["vae"])
        control = None
        if channels:
            network = ControlNetModel.from_unet(unet, conditioning_channels=channels, load_weights_from_unet=False)
            control = ControlNets([network])
    rows, width = EXPECTED[name][1], int(configs["unet"]["cross_attention_dim"])

    class Texts:
        dtype, limits = torch.float32, [77]

        def __call__(self, texts: list[str]) -> torch.Tensor:
            return torch.zeros(len(texts), rows, width, device="meta")

    device = torch.device("meta")
    for network in (unet, autoencoder):
        network.requires_grad_(False)
    texts: Any = Texts()
    return LatentDiffusionPrior(
        folder=folder, autoencoder=autoencoder, unet=unet, texts=texts, device=device, control=control
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("channels", [0, 22])
def test_a_training_step_at_the_true_size(name: str, channels: int) -> None:
    prior = prior_of(name, channels)
    side, rows, millions = EXPECTED[name]
    widths = sum(part["hidden_size"] for key, part in ROWS[name].items() if key.startswith("text_encoder"))
    assert widths == ROWS[name]["unet"]["cross_attention_dim"]
    assert prior.image_size == side and prior.control_channels == channels
    assert sum(p.numel() for p in prior.unet.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)
    assert rows == 77 + -(-pooled_size(prior.unet.config) // widths)
    guide = Guidance(prior, METHODS["sds"].config.model_validate({}), 10)
    rgb = torch.rand(1, 64, 64, 3, device="meta", requires_grad=True)
    control = torch.rand(1, channels, 512, 512, device="meta") if channels else None
    cameras = turntable(1, 64).to("meta")
    loss, _ = guide(rgb, Prompt(text="a mug", negative="ugly"), cameras, 0, torch.Generator(), control=control)
    loss.backward()
    assert rgb.grad is not None and rgb.grad.shape == rgb.shape
