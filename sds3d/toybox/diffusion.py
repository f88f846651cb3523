"""Train the bundled prior's text encoder and UNet together on cached latents (v-prediction)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.cameras import orbit
from sds3d.priors.camera_condition import encode_cameras
from sds3d.toybox.captions import caption
from sds3d.toybox.dataset import FOV_DEG, IMAGE_SIZE, describe
from sds3d.toybox.fast_layers import use_fast_layers
from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.networks import CAMERA_CONDITION, make_scheduler, make_text_encoder, make_unet

NO_CAMERA_SHARE = 0.10


@dataclass
class Corpus:
    """Cached latents [variants, N, C, h, w] scaled to unit variance, and the records [N] their words come from."""

    latents: NDArray[np.float16]
    records: NDArray[np.void]
    tokenizer: Any

    def __post_init__(self) -> None:
        orbits = torch.from_numpy(np.stack([self.records[k] for k in ("azimuth", "elevation", "distance")], axis=1))
        cameras = orbit(orbits[:, 0], orbits[:, 1], orbits[:, 2], FOV_DEG, IMAGE_SIZE, IMAGE_SIZE)
        self.cameras = encode_cameras(cameras.cam_to_world, CAMERA_CONDITION)
        self._tokens: dict[str, Tensor] = {}

    def tokens(self, text: str) -> Tensor:
        """Return the token ids [tokens] of a caption, cached."""
        if text not in self._tokens:
            ids = self.tokenizer(text, padding="max_length", truncation=True).input_ids
            self._tokens[text] = torch.tensor(ids)
        return self._tokens[text]

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return (latents [B, C, h, w], token ids [B, tokens], camera features [B, D]) with captions drawn anew."""
        rows = rng.integers(self.latents.shape[1], size=size)
        variants = rng.integers(self.latents.shape[0], size=size)
        latents = torch.from_numpy(self.latents[variants, rows].astype(np.float32))
        words = [caption(describe(r), float(r["azimuth"]), float(r["elevation"]), rng) for r in self.records[rows]]
        hidden = torch.from_numpy(rng.random(size) < NO_CAMERA_SHARE)
        cameras = self.cameras[torch.from_numpy(rows)].masked_fill(hidden[:, None], 0.0)
        return latents, torch.stack([self.tokens(w) for w in words]), cameras


@lru_cache(maxsize=1)
def _alpha_bar() -> Tensor:
    """Return the noise schedule's cumulative product, [1000] float32."""
    return make_scheduler().alphas_cumprod  # type: ignore[no-any-return]


def velocity_error(
    networks: nn.ModuleDict, batch: tuple[Tensor, Tensor, Tensor], timestep: Tensor, noise: Tensor
) -> Tensor:
    """Return the squared v-prediction error of each sample [B]; the networks run in their own dtype, the rest in float32."""
    latents, tokens, cameras = batch
    alpha_bar = _alpha_bar()[timestep][:, None, None, None]
    alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    dtype = next(networks["unet"].parameters()).dtype
    hidden = networks["text"](tokens).last_hidden_state
    noisy = (alpha * latents + sigma * noise).to(dtype)
    predicted = networks["unet"](noisy, timestep, hidden, class_labels=cameras.to(dtype)).sample
    return (predicted.float() - (alpha * noise - sigma * latents)).square().mean(dim=(1, 2, 3))


@torch.no_grad()
def condition_losses(networks: nn.ModuleDict, corpus: Corpus, seed: int = 1, size: int = 512) -> dict[str, float]:
    """Return losses on `corpus` with the right condition, with shuffled text and with shuffled cameras; same t and noise."""
    rng = np.random.default_rng(seed)
    latents, tokens, cameras = corpus.batch(size, rng)
    timestep = torch.from_numpy((np.arange(size) * 1000) // size)
    noise = torch.from_numpy(rng.standard_normal(latents.shape).astype(np.float32))
    turn = torch.from_numpy(np.roll(np.arange(size), 7 * 37))
    chunks = torch.arange(size).split(128)

    def mean_loss(text_rows: Tensor, camera_rows: Tensor) -> float:
        parts = [
            velocity_error(networks, (latents[c], tokens[text_rows[c]], cameras[camera_rows[c]]), timestep[c], noise[c])
            for c in chunks
        ]
        return float(torch.cat(parts).mean())

    straight = torch.arange(size)
    return {
        "val": mean_loss(straight, straight),
        "val_shuffled_text": mean_loss(turn, straight),
        "val_shuffled_camera": mean_loss(straight, turn),
    }


def make_networks(vocabulary_size: int, seed: int, **unet: Any) -> nn.ModuleDict:
    """Return untrained {"unet", "text"} in float32."""
    torch.manual_seed(seed)
    network = make_unet(**unet)
    from diffusers.models.attention_processor import AttnProcessor

    network.set_attn_processor(AttnProcessor())  # the fused CPU attention is slower in training
    return nn.ModuleDict({"unet": network, "text": make_text_encoder(vocabulary_size)})


def load_networks(networks: nn.ModuleDict, prior: Path) -> None:
    """Take over the UNet and the text encoder of a prior folder of the same sizes."""
    from safetensors.torch import load_file

    networks["unet"].load_state_dict(load_file(prior / "unet" / "diffusion_pytorch_model.safetensors"))
    networks["text"].load_state_dict(load_file(prior / "text_encoder" / "model.safetensors"))


def train_diffusion(
    corpus: Corpus,
    validation: Corpus,
    folder: Path,
    config: LoopConfig,
    seed: int,
    batch: int = 48,
    workers: int = 2,
    start: Path | None = None,
    **unet: Any,
) -> nn.ModuleDict:
    """Return the trained {"unet", "text"} with averaged weights; resumes from `folder`, or begins with the prior in `start`."""
    networks = make_networks(len(corpus.tokenizer), seed, **unet)
    if start is not None:
        load_networks(networks, start)
    use_fast_layers(networks["unet"])
    loop = Loop("diffusion", folder, networks, config, workers=workers)
    loop.load()
    share = batch // workers

    def loss_of(step: int, worker: int, twin: nn.ModuleDict) -> Tensor:
        rng = np.random.default_rng([seed, 7, step, worker])
        samples = corpus.batch(share, rng)
        # One time from each of `share` equal slices: less variance than independent draws.
        timestep = torch.from_numpy(((np.arange(share) + rng.random(share)) * (1000 / share)).astype(np.int64))
        noise = torch.from_numpy(rng.standard_normal(samples[0].shape).astype(np.float32))
        return velocity_error(twin, samples, timestep, noise).mean()

    loop.run(loss_of, lambda twin: condition_losses(twin.to(torch.bfloat16), validation))
    return loop.averaged()
