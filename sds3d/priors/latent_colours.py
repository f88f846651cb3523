"""Which colours do a prior's latents stand for? The best linear answer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sds3d.priors.base import Prior

PICTURES_A_SCALE = 4


@torch.no_grad()
def latent_colours(prior: Prior, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return weight [3, C] and bias [3] (float32, CPU): the least-squares colours of latents, in [0, 1] for pictures.

    Random latents of unit size, from plain fields to noise in every place, are decoded; each picture is averaged over the
    pixels of a latent, and colours are fitted to latents.

    Args:
        generator: CPU generator of the latents.
    Source: Metzer et al. 2023 (Latent-NeRF), "RGB refinement". Deviation: fitted to the given prior, where the paper has
    fixed numbers without bias for Stable Diffusion 1.x. Limits: a decoder is not linear; texture finer than a latent
    has no place in it.
    """
    channels, height, width = prior.latent_shape()
    coarse = [1 << power for power in range(min(height, width).bit_length())]
    latents = torch.cat(
        [
            nn.functional.interpolate(
                torch.randn(PICTURES_A_SCALE, channels, side, side, generator=generator),
                (height, width),
                mode="nearest",
            )
            for side in coarse
        ]
    )
    colours = []
    for some in latents.split(PICTURES_A_SCALE):
        pictures = prior.decode(some.to(prior.device)).clamp(0.0, 1.0).permute(0, 3, 1, 2)
        colours.append(nn.functional.adaptive_avg_pool2d(pictures, (height, width)).float().cpu())
    places = latents.permute(0, 2, 3, 1).reshape(-1, channels).double()
    wanted = torch.cat(colours).permute(0, 2, 3, 1).reshape(-1, 3).double()
    found = torch.linalg.lstsq(torch.cat([places, torch.ones_like(places[:, :1])], dim=1), wanted).solution
    return found[:-1].T.float().contiguous(), found[-1].float()
