"""Autoencoders of clips: picture by picture, or causal over time; with the affine map to the network's latents."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.priors.loading import Network, no_autocast
from sds3d.priors.video.base import channels_first, frames_first
from sds3d.priors.video.deferred import deferred


class ClipCodec:
    """Latents z0 = (E(2 x - 1) - shift) scale of clips; E is the mean of the encoder's Gaussian.

    Args:
        autoencoder: a frozen module of diffusers.
        is_causal: whether it looks at whole clips [B, 3, F, H, W] (Wan, CogVideoX, LTX) or at single pictures.
        chunk: pictures (causal: above 0 means clips) encoded at a time with deferred back-propagation; 0 = all at once.
    """

    def __init__(self, autoencoder: Network, is_causal: bool, device: torch.device, chunk: int = 0):
        self.autoencoder, self.is_causal, self.device = autoencoder, is_causal, device
        self.dtype: torch.dtype = autoencoder.dtype
        self.chunk = min(chunk, 1) if is_causal else chunk
        self.scale, self.shift = (number.to(device) for number in latent_numbers(autoencoder))

    @property
    def time_stride(self) -> int:
        """Frames a latent frame stands for."""
        config = self.autoencoder.config
        known = vars(self.autoencoder).get("temporal_compression_ratio") or config.get("scale_factor_temporal")
        return int(known or config.get("temporal_compression_ratio") or 4) if self.is_causal else 1

    @property
    def space_stride(self) -> int:
        """Pixels a latent pixel stands for."""
        known = vars(self.autoencoder).get("spatial_compression_ratio")
        if known:
            return int(known)
        config = self.autoencoder.config
        return int(2 ** (len(config.get("block_out_channels") or config["encoder_block_out_channels"]) - 1))

    def encode(self, images: Tensor) -> Tensor:
        """Return z0 [B, C, f, h, w] float32 of `images` [B, 3, F, H, W] in [-1, 1], differentiably."""
        return (self.raw(images).float() - self.shift) * self.scale

    def raw(self, images: Tensor) -> Tensor:
        """Return the encoder's means [B, C, f, h, w] before shift and scale."""
        samples = (images if self.is_causal else frames_first(images)).to(self.dtype)
        means = deferred(self._mean, samples, self.chunk)
        return means if self.is_causal else channels_first(means, len(images))

    def decode(self, z0: Tensor) -> Tensor:
        """Return clips [B, F, H, W, 3] float32, about [0, 1], not clamped."""
        raw = (z0 / self.scale + self.shift).to(self.dtype)
        with no_autocast(self.device):
            if self.is_causal:
                images: Tensor = self.autoencoder.decode(raw, **self._time(len(raw))).sample
            else:
                extra = {"num_frames": raw.shape[2]} if self._decodes_over_time else {}
                images = channels_first(self.autoencoder.decode(frames_first(raw), **extra).sample, len(raw))
        return (images.float() * 0.5 + 0.5).permute(0, 2, 3, 4, 1)

    def _mean(self, samples: Tensor) -> Tensor:
        with no_autocast(self.device):
            found = self.autoencoder.encode(samples)
        means: Tensor = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
        return means

    @property
    def _decodes_over_time(self) -> bool:
        return type(self.autoencoder).__name__ == "AutoencoderKLTemporalDecoder"

    def _time(self, clips: int) -> dict[str, Tensor]:
        """Return the noise level a denoising decoder (LTX from 0.9.1) is told: none."""
        if not self.autoencoder.config.get("timestep_conditioning", False):
            return {}
        return {"temb": torch.zeros(clips, device=self.device, dtype=self.dtype)}


def latent_numbers(autoencoder: Network) -> tuple[Tensor, Tensor]:
    """Return (scale, shift), [1, C or 1, 1, 1, 1] float32 each, that belong to an autoencoder.

    By channel where it has statistics: in its configuration (Wan), or as buffers (LTX, in whose configuration they are
    not); else `scaling_factor` and `shift_factor`.
    """
    config = autoencoder.config
    scale = float(config.get("scaling_factor") or 1.0)
    known = dict(autoencoder.named_buffers()) | dict(config)
    mean, spread = known.get("latents_mean"), known.get("latents_std")
    if mean is None or spread is None:
        shift = float(config.get("shift_factor") or 0.0)
        return torch.full((1, 1, 1, 1, 1), scale), torch.full((1, 1, 1, 1, 1), shift)
    shape = (1, -1, 1, 1, 1)
    mean, spread = (torch.as_tensor(row, dtype=torch.float32).reshape(shape) for row in (mean, spread))
    return scale / spread, mean
