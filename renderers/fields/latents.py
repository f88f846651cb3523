"""Between the latents of a prior and colours, linearly: how fields of latents are seen, and what they become."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentMixing(nn.Module):
    """An affine map from latents [..., C] to colours [..., 3], about [0, 1], and the nearest latents of a plain colour.

    Zero until `take` is given a map (see `sds3d.priors.latent_colours`) or a state dict is loaded.
    Source: Metzer et al. 2023 (Latent-NeRF), "RGB refinement", where it has fixed numbers for Stable Diffusion 1.x.
    """

    weight: nn.Parameter
    bias: nn.Parameter
    back: Tensor

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3, latents)), nn.Parameter(torch.zeros(3))
        self.register_buffer("back", torch.zeros(latents, 3))

    @torch.no_grad()
    def take(self, weight: Tensor, bias: Tensor) -> None:
        """Take over a map: `weight` [3, C], `bias` [3]."""
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        self.back.copy_(torch.linalg.pinv(weight))

    def to_rgb(self, latents: Tensor) -> Tensor:
        """Return colours [..., 3] of latents [..., C]; not clamped."""
        return nn.functional.linear(latents, self.weight, self.bias)

    def to_latents(self, rgb: Tensor) -> Tensor:
        """Return the shortest latents [..., C] that the map `take` was given shows as `rgb` [..., 3]."""
        return (rgb - self.bias) @ self.back.T
