"""Images a prior draws by itself: what does it know before anything is distilled from it?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sds3d.cameras import Cameras, turntable
from sds3d.errors import AssetError, ConfigError
from sds3d.export.atomic import atomic_path
from sds3d.priors.base import Prior, Query

if TYPE_CHECKING:
    from sds3d.config import PriorConfig
    from sds3d.priors.video.base import VideoPrior

LEAST_SIGNAL = 1e-3
"""Smallest alpha from which the clean image is computed: float32 keeps four digits of it there."""


@torch.no_grad()
def sample_latents(
    prior: Prior,
    noise: Tensor,
    text: str | Sequence[str],
    cameras: Cameras,
    scale: float = 5.0,
    steps: int = 25,
    control: Tensor | None = None,
) -> Tensor:
    """Return latents [B, C, h, w] by deterministic DDIM with classifier-free guidance.

    Args:
        noise: [B, C, h, w] standard normal latents to start from.
        text: the prompt of all B samples, or one for each.
        cameras: B cameras, heard by priors that listen to cameras.
        scale: guidance s in u + s (y - u); 1 means none.
        steps: network calls, evenly over the prior's time axis, at least 1.
        control: [B, K, H, W] condition pictures in [0, 1] for priors that take them.
    Source: Song et al., Denoising Diffusion Implicit Models (arXiv 2010.02502), equation 12 with zero variance; for
    flow models the same formula is an Euler step along the velocity.
    Deviation: where the last time has no signal left at all (zero terminal SNR, flow models) the clean image cannot be
    told from the noise prediction, so sampling starts at the last time with alpha of at least `LEAST_SIGNAL`.
    Raises: ConfigError if there are no steps.
    """
    if steps < 1:
        raise ConfigError(f"The number of sampling steps is {steps}, but at least 1 is needed. Try 25.", "steps")
    batch = len(noise)
    texts = [text] if isinstance(text, str) else list(text)
    prompted, empty = (prior.text(words).expand(batch, -1, -1) for words in (texts, [prior.null_text]))
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


@torch.no_grad()
def sample_views(
    prior: Prior,
    text: str | Sequence[str],
    cameras: Cameras,
    generator: torch.Generator,
    scale: float = 5.0,
    steps: int = 25,
) -> Tensor:
    """Return pictures [B, S, S, 3] in [0, 1] of one object from B `cameras` evenly around it (a `turntable`).

    A prior that looks at groups of views gets groups of cameras 360 / group degrees apart, drawn jointly from
    independent noise, as it was trained. A prior that only listens to cameras gets the same noise everywhere, so that
    only the camera differs. Any other prior draws B pictures that know nothing of each other.

    Args:
        generator: CPU generator of the noise, the same on every device.
        text, scale, steps: see `sample_latents`.
    Raises: ConfigError if the cameras are no whole number of groups.
    """
    views, group = len(cameras), prior.group_views
    if views % group:
        raise ConfigError(
            f"{views} views were asked for, but this prior draws {group} views together. Ask for {group} or another "
            f"multiple of {group}.",
            path="views",
        )
    shape = prior.latent_shape()
    is_common = prior.has_camera and group == 1
    noise = torch.randn(1 if is_common else views, *shape, generator=generator).expand(views, *shape).to(prior.device)
    order = torch.arange(views).view(group, -1).t().flatten()  # of 8 views in groups of 4: 0 2 4 6, 1 3 5 7
    texts = text if isinstance(text, str) else [text[index] for index in order.tolist()]
    latents = sample_latents(prior, noise, texts, cameras[order], scale, steps)
    return prior.decode(latents[order.argsort().to(latents.device)]).clamp(0.0, 1.0)


@torch.no_grad()
def sample_clip(
    prior: VideoPrior,
    text: str,
    generator: torch.Generator,
    scale: float = 5.0,
    steps: int = 25,
    first_frame: Tensor | None = None,
) -> Tensor:
    """Return a film [F, H, W, 3] in [0, 1] of as many frames as the prior was opened for.

    Args:
        generator: CPU generator of the noise. text, scale, steps: see `sample_latents`.
        first_frame: [H, W, 3] in [0, 1] for priors that animate a picture; they raise ConfigError without one.
    """
    from sds3d.priors.video.folded import FoldedPrior, unfold_pixels

    folded = FoldedPrior(prior, prior.frames)
    if first_frame is not None:
        folded.first_frames = first_frame.permute(2, 0, 1)[None].to(prior.device)
    shape = folded.encode(
        torch.full((1, prior.frames * prior.size[0], prior.size[1], 3), 0.5, device=prior.device)
    ).shape
    noise = torch.randn(shape, generator=generator).to(prior.device)
    latents = sample_latents(folded, noise, text, turntable(1, 8), scale, steps)
    return unfold_pixels(folded.decode(latents), prior.frames)[0].clamp(0.0, 1.0)


def _picture(file: str) -> Tensor | None:
    """Return a picture file as [H, W, 3] in [0, 1], None for no file. Raises: AssetError if it cannot be read."""
    if not file:
        return None
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        return torch.from_numpy(np.asarray(Image.open(file).convert("RGB"), np.float32) / 255.0)
    except (OSError, UnidentifiedImageError) as error:
        raise AssetError(f"The picture '{file}' cannot be read: {error}. Give a PNG or JPEG file.", file) from error


def sample_sheet(
    model: PriorConfig | str | Path,
    prompts: Sequence[str],
    out: Path,
    views: int = 4,
    scale: float = 5.0,
    seed: int = 0,
    steps: int = 25,
    device: torch.device | str = "cpu",
    first_frame: str = "",
) -> Path:
    """Write a PNG with a row a prompt and a column an azimuth (0 is the front), drawn by the prior `model`.

    Models of films get a column a frame instead, `views` of them evenly over the film.

    Args:
        model: what `sds3d.priors.open.open_prior` opens.
        views, scale, steps: see `sample_latents`; models that look at groups of views need whole groups.
        first_frame: picture that a model which animates one starts from.
        seed: of the noise, which is drawn on the CPU: the same on every device.
    See `sample_views` for what the columns have in common.
    """
    from PIL import Image

    from sds3d.priors.open import open_prior
    from sds3d.priors.video.base import VideoPrior

    prior = open_prior(model, device)
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for prompt in prompts:
        if isinstance(prior, VideoPrior):
            clip = sample_clip(prior, prompt, generator, scale, steps, _picture(first_frame))
            images = clip[torch.linspace(0, len(clip) - 1, views).round().long()]
        else:
            images = sample_views(prior, prompt, turntable(views, prior.image_size), generator, scale, steps)
        rows.append(torch.cat(list(images.cpu()), dim=1))  # views side by side: [H, views * W, 3]
    pixels = (torch.cat(rows) * 255).round().byte().numpy()
    with atomic_path(out) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
    return out
