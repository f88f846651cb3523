"""Pictures to latents and back: an autoencoder of the diffusers library with its scale and shift."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sds3d.priors.loading import Network, no_autocast
from sds3d.priors.unet_prior import sized_picture


class LatentCodec:
    """An AutoencoderKL or AutoencoderTiny on `device`: z0 = (E(2 x - 1) - shift) scale, E the mean of what it encodes.

    Args:
        autoencoder: the frozen network; runs in its own dtype.
        device: where pictures and latents live.
        image_size: side in pixels pictures are resized to.
    """

    def __init__(self, autoencoder: Network, device: torch.device, image_size: int):
        self.autoencoder, self.device, self.image_size = autoencoder, device, image_size
        self.dtype: torch.dtype = autoencoder.dtype
        self.scale, self.shift = (number.to(device) for number in latent_numbers(autoencoder.config))

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return (self.mean(rgb) - self.shift) * self.scale

    def mean(self, rgb: Tensor) -> Tensor:
        """Return what the autoencoder itself makes of `rgb`, without scale and shift."""
        image = sized_picture(rgb, self.image_size)
        with no_autocast(self.device):
            encoded = self.autoencoder.encode(image.to(self.dtype))
        latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return latents.float()

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        latents = z0 / self.scale + self.shift
        with no_autocast(self.device):
            image: Tensor = self.autoencoder.decode(latents.to(self.dtype)).sample
        return (image.float() * 0.5 + 0.5).permute(0, 2, 3, 1)


def latent_numbers(config: Any) -> tuple[Tensor, Tensor]:
    """Return (scale, shift) with z0 = (E(x) - shift) scale, [1, C, 1, 1] or [1, 1, 1, 1] float32, of an autoencoder.

    Either scaling_factor and shift_factor, or scaling_factor with latents_mean and latents_std of each channel.
    """
    scale = torch.tensor(float(config["scaling_factor"])).reshape(1, 1, 1, 1)
    mean, spread = config.get("latents_mean"), config.get("latents_std")
    if mean is not None and spread is not None:
        return scale / torch.tensor(spread).reshape(1, -1, 1, 1), torch.tensor(mean).reshape(1, -1, 1, 1)
    return scale, torch.tensor(float(config.get("shift_factor") or 0.0)).reshape(1, 1, 1, 1)
