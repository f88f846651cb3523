"""Latent diffusion priors: Stable Diffusion 1.x, 2.x, Turbo, XL and everything in the same shape, ours included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.priors.base import NULL_TEXT
from sds3d.priors.controlnet import load_controlnets
from sds3d.priors.folder import PriorFolder, check_folder
from sds3d.priors.latent_codec import LatentCodec
from sds3d.priors.loading import Network, load_network
from sds3d.priors.memory import MemorySwitches, set_up_autoencoder, set_up_denoiser
from sds3d.priors.text_encoders import READINGS, TextEncoders
from sds3d.priors.text_store import TextStore
from sds3d.priors.unet_prior import UNetPrior, check_unet, refusal
from sds3d.schedule import Schedule

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
READING_OF = {None: "stable-diffusion", "text": "stable-diffusion", "text_time": "stable-diffusion-xl"}
"""How text is read, by the UNet's addition_embed_type."""


class LatentDiffusionPrior(UNetPrior):
    """Text encoders, autoencoder and UNet of one diffusers folder, frozen; everything read from its configurations.

    Build it with `from_folder`. One class for the family: the number of text encoders, the layer read, SDXL's pooled
    vector and size numbers (original and wanted size are `image_size`, no crop), the parametrisation and the scale and
    shift of latents follow from the configurations. The autoencoder runs in `vae_dtype`.

    Limits: the latent of an AutoencoderKL is its mean, not a sample, so that a run can be repeated exactly; camera
    features enter through a UNet with class_embed_type "projection"; no inpainting UNets, no SDXL refiner.
    """

    def __init__(self, *, folder: PriorFolder, autoencoder: Network, **parts: Any):
        super().__init__(folder=folder, **parts)
        self.autoencoder = autoencoder
        config = autoencoder.config
        self.image_size = self.metadata.image_size or self.unet.config["sample_size"] * _downscale(config)
        self.null_text = NULL_TEXT if folder.options.get("force_zeros_for_empty_prompt") else ""
        self.codec = LatentCodec(autoencoder, self.device, self.image_size)

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        vae_dtype: torch.dtype = torch.float32,
        *,
        clip_skip: int | None = None,
        controlnets: Sequence[Path | str] = (),
        control_scales: Sequence[Schedule | float] = (),
        switches: MemorySwitches | None = None,
        store: TextStore | None = None,
    ) -> LatentDiffusionPrior:
        """Return the prior stored in the diffusers folder at `path`; nothing is downloaded, only safetensors are read.

        Args:
            dtype: number type of text encoders, UNet and ControlNets; bfloat16 pays on CPUs with AMX and for large
                networks.
            vae_dtype: number type of the autoencoder; float32 or bfloat16, as its backward pass overflows in float16.
                float16 is raised to float32 where the autoencoder's configuration says force_upcast.
            clip_skip: last layers of the text encoders to leave out; None: what the folder's sds3d.json says, or 0.
            controlnets: folders of diffusers ControlNetModels, which share the channels of `Query.control` in order.
            control_scales: strength of each, a number or a schedule of the run; 1 by default.
            switches: memory switches.
            store: remembers texts, by default the folder's own. Large text encoders are loaded with the first text the
                store does not know.
        Raises: AssetError if the folder is incomplete, broken, or of a kind this class does not run.
        """
        folder, device, switches = check_folder(path), torch.device(device), switches or MemorySwitches()
        check_supported(folder)
        skipped = folder.metadata.clip_skip if clip_skip is None else clip_skip
        reading = READINGS[READING_OF[folder.configs["unet"].get("addition_embed_type")]]
        texts = TextEncoders(folder, reading, device, dtype, skipped, switches, store)
        texts.load_if_small()
        autoencoder, unet = _load_networks(folder, dtype, vae_dtype)
        return cls(
            folder=folder,
            texts=texts,
            autoencoder=set_up_autoencoder(autoencoder, device, switches),
            unet=set_up_denoiser(unet, device, switches),
            control=load_controlnets(controlnets, control_scales, unet.config, device, dtype, switches),
            device=device,
        )

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return self.codec.encode(rgb)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        return self.codec.decode(z0)


def _downscale(config: Any) -> int:
    blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]  # AutoencoderTiny has both names
    return int(2 ** (len(blocks) - 1))


def check_supported(folder: PriorFolder) -> None:
    """Raise AssetError for folders that load but would be run wrongly by this class."""
    vae = folder.configs.get("vae", {})
    check_unet(folder, int(vae.get("latent_channels", 4)), tuple(READING_OF))
    if vae.get("_class_name") not in AUTOENCODERS:
        raise refusal(folder, f"an autoencoder of class {vae.get('_class_name')}", " or ".join(AUTOENCODERS))
    wanted = 2 if folder.configs["unet"].get("addition_embed_type") == "text_time" else 1
    present = [part for part in folder.configs if part.startswith("text_encoder")]
    if len(present) != wanted:
        raise refusal(folder, f"{len(present)} text encoders ({', '.join(present)})", f"{wanted} for this UNet")


def _load_networks(folder: PriorFolder, dtype: torch.dtype, vae_dtype: torch.dtype) -> tuple[Network, Network]:
    # The parts are imported one by one: the pipeline class would load its safety checker, image processors and mixins.
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    config = folder.configs["vae"]
    if config["_class_name"] == "AutoencoderTiny":
        from diffusers.models.autoencoders.autoencoder_tiny import AutoencoderTiny as Autoencoder
    else:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL as Autoencoder
    if vae_dtype == torch.float16 and config.get("force_upcast", False):
        vae_dtype = torch.float32
    variants = folder.variants
    return (
        load_network(Autoencoder, folder.path / "vae", vae_dtype, variants["vae"]),
        load_network(UNet2DConditionModel, folder.path / "unet", dtype, variants["unet"]),
    )
