"""Train the bundled prior's autoencoder on toybox renders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.networks import DOWNSCALE, make_autoencoder

CROP = 32
GREY = 0.5


def composite(images: NDArray[np.uint8], rng: np.random.Generator) -> Tensor:
    """Return [B, 3, H, W] in [0, 1]: premultiplied RGBA on mid-grey (half of the images) or a random colour."""
    batch = images.shape[0]
    colors = rng.random((batch, 3)).astype(np.float32)
    colors[rng.random(batch) < 0.5] = GREY
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
    return pixels[:, :3] + (1.0 - pixels[:, 3:]) * torch.from_numpy(colors)[:, :, None, None]


def disturb(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images as unfinished renders look: a quarter is mixed, blurred or noisy. Keeps the encoder sane off the data."""
    quarter = images.shape[0] // 4
    part = images[:quarter]
    blurred = nn.functional.avg_pool2d(part, 5, stride=1, padding=2, count_include_pad=False)
    share = torch.from_numpy(rng.random((quarter, 1, 1, 1)).astype(np.float32))
    mixed = torch.lerp(blurred, part.flip(0), share * 0.5)
    coarse = torch.from_numpy(rng.random((quarter, 3, 4, 4)).astype(np.float32))
    clouds = nn.functional.interpolate(coarse, size=part.shape[-2:], mode="bilinear", align_corners=False)
    noise = torch.from_numpy(rng.standard_normal(part.shape).astype(np.float32)) * 0.05
    fog = torch.from_numpy((rng.random((quarter, 1, 1, 1)) * 0.6).astype(np.float32))
    return torch.cat([(torch.lerp(mixed, clouds, fog) + noise).clamp(0.0, 1.0), images[quarter:]])


def autoencoder_loss(autoencoder: nn.Module, target: Tensor, noise: Tensor) -> Tensor:
    """Return L1 + 2 MSE + 0.5 image-gradient L1 + 0.02 latent regulariser (mean 0, variance 1, |z| < 2.5)."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents = autoencoder.encode(target * 2 - 1).latents  # type: ignore[operator]
        decoded = autoencoder.decode(latents + noise.to(latents.dtype)).sample  # type: ignore[operator]
    latents, difference = latents.float(), (decoded.float() + 1) / 2 - target
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    spread = latents.var(dim=(0, 2, 3))
    excess = (latents.abs() - 2.5).relu().square().mean()
    regulariser = latents.mean(dim=(0, 2, 3)).square().mean() + (spread - 1).square().mean() + excess
    return difference.abs().mean() + 2 * difference.square().mean() + 0.5 * edges + 0.02 * regulariser


def train_autoencoder(
    images: NDArray[np.uint8], folder: Path, config: LoopConfig, seed: int, batch: int = 64
) -> nn.Module:
    """Return the trained autoencoder (averaged weights); crops of 32 px at first, whole images in the last fifth."""
    torch.manual_seed(seed)
    network = make_autoencoder().to(memory_format=torch.channels_last)
    loop = Loop("autoencoder", folder, nn.ModuleDict({"vae": network}), config)
    loop.load()

    def loss_of(step: int, worker: int, networks: nn.ModuleDict) -> Tensor:
        rng = np.random.default_rng([seed, step])
        whole = step > 0.8 * config.steps
        chosen = images[np.sort(rng.integers(len(images), size=batch // 2 if whole else batch))]
        rng.shuffle(chosen)
        pixels = disturb(composite(chosen, rng), rng)
        if not whole:
            row, column = rng.integers(0, pixels.shape[2] - CROP + 1, 2)
            pixels = pixels[:, :, row : row + CROP, column : column + CROP]
        size = (len(pixels), network.config.latent_channels, pixels.shape[2] // DOWNSCALE, pixels.shape[3] // DOWNSCALE)
        noise = torch.from_numpy(rng.standard_normal(size).astype(np.float32)) * 0.05
        return autoencoder_loss(network, pixels.contiguous(memory_format=torch.channels_last), noise)

    loop.run(loss_of)
    network.load_state_dict({k.removeprefix("vae."): v for k, v in loop.averages.items()})
    return network.eval()


@torch.no_grad()
def encode_set(
    autoencoder: nn.Module, images: NDArray[np.uint8], variants: int, seed: int, batch: int = 256
) -> tuple[NDArray[np.float16], float]:
    """Return (latents [variants, N, C, h, w], their standard deviation): every image on `variants` backgrounds, the first grey."""
    shape = autoencoder.encode(torch.zeros(1, 3, *images.shape[1:3])).latents.shape[1:]  # type: ignore[operator]
    latents = np.zeros((variants, len(images), *shape), np.float16)
    for variant in range(variants):
        for first in range(0, len(images), batch):
            rng = np.random.default_rng([seed, variant, first])
            pixels = composite(images[first : first + batch], rng).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                encoded = autoencoder.encode(pixels * 2 - 1).latents  # type: ignore[operator]
            latents[variant, first : first + batch] = encoded.float().numpy()
    return latents, float(latents[0, : 1 << 14].astype(np.float32).std())


@torch.no_grad()
def reconstruction_psnr(autoencoder: nn.Module, images: NDArray[np.uint8], seed: int) -> float:
    """Return the peak signal-to-noise ratio in dB of decoded against original composites."""
    pixels = composite(images, np.random.default_rng(seed))
    decoded = autoencoder.decode(autoencoder.encode(pixels * 2 - 1).latents).sample  # type: ignore[operator]
    error = (((decoded + 1) / 2).clamp(0, 1) - pixels).square().mean()
    return float(-10 * torch.log10(error))
