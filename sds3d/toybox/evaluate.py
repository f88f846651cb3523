"""Judge a toybox prior by its own samples of pairs it never saw, and by what wrong conditions cost it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.cameras import turntable
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.sampling import sample_latents
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.judge import Judge, azimuth_error
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS, held_out_pairs

VIEWS = 5
"""Views a pair, 72 degrees apart, at elevation 20 and distance 2.5."""


def draw_held_out(prior: LatentDiffusionPrior, scale: float = 4.0, steps: int = 25, seed: int = 0) -> Tensor:
    """Return images [24 * VIEWS, H, W, 3] in [0, 1]: every held-out pair from `VIEWS` sides, each from noise of its own."""
    cameras = turntable(VIEWS, prior.image_size, 20.0, 2.5)
    shape = prior.encode(torch.full((1, prior.image_size, prior.image_size, 3), 0.5)).shape[1:]
    generator = torch.Generator().manual_seed(seed)
    images = []
    for noun, color in held_out_pairs():
        noise = torch.randn(VIEWS, *shape, generator=generator)
        latents = sample_latents(prior, noise, phrase(Description(noun=noun, color=color)), cameras, scale, steps)
        images.append(prior.decode(latents).clamp(0, 1))
    return torch.cat(images)


def score_held_out(images: Tensor, judge: Judge) -> dict[str, Any]:
    """Return what the judge says of `draw_held_out`'s images: shares of right nouns, colours and azimuths, also by noun.

    "azimuth_within_45" counts asymmetric nouns only.
    """
    pairs = held_out_pairs()
    verdict = judge.verdict(images)
    nouns = torch.tensor([NOUNS.index(noun) for noun, _ in pairs]).repeat_interleave(VIEWS)
    colors = torch.tensor([list(COLORS).index(color) for _, color in pairs]).repeat_interleave(VIEWS)
    error = azimuth_error(verdict["azimuth_deg"], turntable(VIEWS, 64).azimuth_deg.repeat(len(pairs)))
    turned = torch.tensor([noun in ASYMMETRIC for noun, _ in pairs]).repeat_interleave(VIEWS)
    right = verdict["noun"] == nouns
    return {
        "noun": float(right.float().mean()),
        "color": float((verdict["color"] == colors).float().mean()),
        "azimuth_within_45": float((error[turned] <= 45).float().mean()),
        "noun_by_noun": {n: float(right[nouns == NOUNS.index(n)].float().mean()) for n in NOUNS},
        "azimuth_by_noun": {n: float((error <= 45)[nouns == NOUNS.index(n)].float().mean()) for n in ASYMMETRIC},
    }


def wrong_condition_losses(
    prior: LatentDiffusionPrior, images: NDArray[np.uint8], records: NDArray[np.void], seed: int = 1
) -> dict[str, float]:
    """Return v-losses on renders: with the right condition, with shuffled text and with shuffled cameras."""
    from sds3d.toybox.autoencoder import composite
    from sds3d.toybox.diffusion import Corpus, condition_losses

    pixels = composite(images, np.random.default_rng(seed)).permute(0, 2, 3, 1)
    with torch.no_grad():
        latents = torch.cat([prior.encode(chunk) for chunk in pixels.split(128)])
    corpus = Corpus(latents[None].numpy().astype(np.float16), records, prior.tokenizer)
    networks = nn.ModuleDict({"unet": prior.unet, "text": prior.text_encoder})
    return condition_losses(networks, corpus, seed)
