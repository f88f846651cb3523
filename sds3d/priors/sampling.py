"""Images a prior draws by itself: what does it know before anything is distilled from it?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.errors import ConfigError
from sds3d.export.atomic import atomic_path
from sds3d.priors.base import Prior, Query

LEAST_SIGNAL = 1e-3
"""Smallest alpha from which the clean image is computed: float32 keeps four digits of it there."""


@torch.no_grad()
def sample_latents(
    prior: Prior,
    noise: Tensor,
    text: str,
    cameras: Cameras,
    scale: float = 5.0,
    steps: int = 25,
    control: Tensor | None = None,
) -> Tensor:
    """Return latents [B, C, h, w] by deterministic DDIM with classifier-free guidance.

    Args:
        noise: [B, C, h, w] standard normal latents to start from.
        text: the prompt of all B samples.
        cameras: B cameras, heard by priors that listen to cameras.
        scale: guidance s in u + s (y - u); 1 means none.
        steps: network calls, evenly over the prior's time axis, at least 1.
        control: [B, K, H, W] condition pictures in [0, 1] for priors that take them.
    Source: Song et al., Denoising Diffusion Implicit Models (arXiv 2010.02502), equation 12 with zero variance; for flow
    models the same formula is an Euler step along the velocity.
    Deviation: where the last time has no signal left at all (zero terminal SNR, flow models) the clean image cannot be
    told from the noise prediction, so sampling starts at the last time with alpha of at least `LEAST_SIGNAL`.
    Raises: ConfigError if there are no steps.
    """
    if steps < 1:
        raise ConfigError(f"The number of sampling steps is {steps}, but at least 1 is needed. Try 25.", "steps")
    batch = len(noise)
    prompted, empty = (prior.text([words]).expand(batch, -1, -1) for words in (text, prior.null_text))
    features = prior.camera_features(cameras.to(noise.device))
    alphas = prior.alpha_sigma(torch.arange(prior.num_timesteps, device=noise.device))[0].flatten()
    last = int((alphas >= LEAST_SIGNAL).nonzero().max())
    times = torch.linspace(last, 0, steps + 1, device=noise.device).round().long()
    z = noise
    for now, then in pairwise(times):
        t = now.expand(batch)
        queries = [Query(z_t=z, t=t, text=words, camera=features, control=control) for words in (prompted, empty)]
        conditional, unconditional = prior.predict(queries)
        epsilon = unconditional + scale * (conditional - unconditional)
        (alpha, sigma), (next_alpha, next_sigma) = prior.alpha_sigma(t), prior.alpha_sigma(then.expand(batch))
        clean = (z - sigma * epsilon) / alpha
        z = next_alpha * clean + next_sigma * epsilon
    return clean


def sample_sheet(
    folder: Path, prompts: Sequence[str], out: Path, views: int = 4, scale: float = 5.0, seed: int = 0
) -> Path:
    """Write a PNG with a row a prompt and a column an azimuth (0 is the front), drawn by the prior in `folder`.

    A prior that listens to cameras gets the same noise in every column, so that only the camera differs.
    """
    from PIL import Image

    from sds3d.priors.open import open_prior

    prior = open_prior(folder)
    cameras = turntable(views, prior.image_size)
    shape = prior.encode(torch.full((1, prior.image_size, prior.image_size, 3), 0.5)).shape[1:]
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for prompt in prompts:
        noise = torch.randn(1 if prior.has_camera else views, *shape, generator=generator).expand(views, *shape)
        images = prior.decode(sample_latents(prior, noise, prompt, cameras, scale))
        rows.append(torch.cat(list(images.clamp(0, 1)), dim=1))  # views side by side: [H, views * W, 3]
    pixels = (torch.cat(rows) * 255).round().byte().numpy()
    with atomic_path(out) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    return out
