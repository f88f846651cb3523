"""Video priors whose latents are those of a `ClipCodec` and whose noise levels are a table."""

from __future__ import annotations

from torch import Tensor

from sds3d.priors.noise_levels import NoiseLevels
from sds3d.priors.video.base import VideoPrior, resized
from sds3d.priors.video.codec import ClipCodec


class CodedVideoPrior(VideoPrior):
    """What such priors share. Attributes: `codec`, and `levels`, one row a timestep."""

    codec: ClipCodec
    levels: NoiseLevels

    def encode(self, rgb: Tensor) -> Tensor:
        """Return z0 [B, C, f, h, w] float32 of clips [B, F, H, W, 3] in [0, 1], differentiable in `rgb`."""
        self.check_clip(rgb)
        return self.codec.encode(resized(rgb, self.size))

    def decode(self, z0: Tensor) -> Tensor:
        """Return clips [B, F, H, W, 3] float32, about [0, 1], not clamped."""
        return self.codec.decode(z0)

    def alpha_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1, 1] float32 each."""
        alpha, sigma = self.levels.at(t)
        return alpha[..., None], sigma[..., None]
