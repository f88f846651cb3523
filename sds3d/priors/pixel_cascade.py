"""The first stage of pixel cascades (DeepFloyd IF): diffusion of small pictures, no autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sds3d.priors.folder import PriorFolder, check_folder
from sds3d.priors.loading import Network, load_network
from sds3d.priors.memory import MemorySwitches, set_up_denoiser
from sds3d.priors.text_encoders import READINGS, TextEncoders
from sds3d.priors.text_store import TextStore
from sds3d.priors.unet_prior import UNetPrior, check_unet, sized_picture


class PixelCascadePrior(UNetPrior):
    """T5 encoder and UNet of DeepFloyd IF's stage I; "latents" are pictures [B, 3, 64, 64] in [-1, 1].

    Source: DeepFloyd IF, run as diffusers' IFPipeline does: texts stripped and in lower case, 77 tokens, padding
    masked; of the UNet's six output channels the last three (learned variance) are dropped.
    Limits: stage I only; the enlarging stages are of no use for distillation at 64 pixels.
    """

    def __init__(
        self, *, folder: PriorFolder, unet: Network, texts: TextEncoders, device: torch.device, image_size: int
    ):
        super().__init__(folder=folder, unet=unet, texts=texts, device=device)
        self.image_size = image_size

    @classmethod
    def from_folder(
        cls,
        path: Path | str,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        *,
        switches: MemorySwitches | None = None,
        store: TextStore | None = None,
    ) -> PixelCascadePrior:
        """Return the prior stored in the diffusers folder at `path`; nothing is downloaded, only safetensors are read.

        Args:
            dtype: number type of text encoder and UNet.
            switches: memory switches; those of an autoencoder do nothing here.
            store: remembers texts, by default the folder's own. The text encoder (T5-XXL: 9.5 GB in float16) is loaded
                with the first text the store does not know.
        Raises: AssetError if the folder is incomplete, broken, or of a kind this class does not run.
        """
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        folder, device, switches = check_folder(path), torch.device(device), switches or MemorySwitches()
        check_unet(folder, 3, (None, "text"))
        texts = TextEncoders(folder, READINGS["deepfloyd-if"], device, dtype, switches=switches, store=store)
        texts.load_if_small()
        unet = load_network(UNet2DConditionModel, folder.path / "unet", dtype, folder.variants["unet"])
        return cls(
            folder=folder,
            unet=set_up_denoiser(unet, device, switches),
            texts=texts,
            device=device,
            image_size=folder.metadata.image_size or int(unet.config["sample_size"]),
        )

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, 3, size, size] float32: `rgb` [B, H, W, 3] in [0, 1], resized, in [-1, 1]; differentiable."""
        return sized_picture(rgb, self.image_size)

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of `z0`, not clamped; undoes `encode` but for the resizing."""
        return (z0.float() * 0.5 + 0.5).permute(0, 2, 3, 1)
