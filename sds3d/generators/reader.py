"""The part of a diffusion model that a finished generator of its own network needs: prompts to embeddings, noise levels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sds3d.config.prior import PriorConfig
from sds3d.priors.latent_diffusion import READING_OF
from sds3d.priors.source import check_prior
from sds3d.priors.text_encoders import READINGS, TextEncoders
from sds3d.priors.unet_prior import read_levels


class PromptReader:
    """Reads prompts as `LatentDiffusionPrior` does, without loading (or importing) UNet and autoencoder.

    Args:
        config: a latent diffusion model in a folder, see `reads`.
    """

    null_text = ""

    def __init__(self, config: PriorConfig, device: torch.device) -> None:
        folder = check_prior(config).folder
        assert folder is not None  # see `reads`
        automatic = "float16" if device.type == "cuda" else "float32"
        dtype = getattr(torch, automatic if config.dtype == "auto" else config.dtype)
        reading = READINGS[READING_OF[folder.configs["unet"].get("addition_embed_type")]]
        self.device, self.levels = device, read_levels(folder.configs["scheduler"]).to(device)
        self._encoders = TextEncoders(folder, reading, device, dtype, folder.metadata.clip_skip)

    @staticmethod
    def reads(config: PriorConfig) -> bool:
        """Return whether the model is of the family whose prompts can be read by this class."""
        source = check_prior(config)
        return source.family == "latent_diffusion" and source.folder is not None and not source.main.is_file()

    def text(self, texts: Sequence[str]) -> Tensor:
        """Return embeddings [n, rows, dim]."""
        return self._encoders(texts)
