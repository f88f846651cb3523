"""Pictures to latents and back: an autoencoder of the diffusers library with its scale and shift."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.priors.latent_diffusion import latent_numbers
from sds3d.priors.loading import Network, no_autocast
from sds3d.priors.unet_prior import sized_picture


class LatentCodec:
    """An AutoencoderKL on `device`: z0 = (E(2 x - 1) - shift) scale, E the mean of what it encodes.

    Args:
        autoencoder: the frozen network; runs in its own dtype.
        device: where pictures and latents live.
        image_size: side in pixels pictures are resized to.
    """

    def __init__(self, autoencoder: Network, device: torch.device, image_size: int):
        self.autoencoder, self.device, self.image_size = autoencoder, device, image_size
        self._dtype: torch.dtype = autoencoder.dtype
        self.scale, self.shift = (number.to(device) for number in latent_numbers(autoencoder.config))

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, h, w] float32 of `rgb` [B, H, W, 3] in [0, 1], differentiable in `rgb`."""
        return (self.mean(rgb) - self.shift) * self.scale

    def mean(self, rgb: Tensor) -> Tensor:
        """Return what the autoencoder itself makes of `rgb`, without scale and shift."""
        image = sized_picture(rgb, self.image_size)
        with no_autocast(self.device):
            latents: Tensor = self.autoencoder.encode(image.to(self._dtype)).latent_dist.mode()
        return latents.float()

    def decode(self, z0: Tensor) -> Tensor:
        """Return [B, H, W, 3] float32 images of latents `z0`, about [0, 1], not clamped."""
        latents = z0 / self.scale + self.shift
        with no_autocast(self.device):
            image: Tensor = self.autoencoder.decode(latents.to(self._dtype)).sample
        return (image.float() * 0.5 + 0.5).permute(0, 2, 3, 1)
