"""Train the bundled motion adapter: AnimateDiff's recipe on clips of toys, the bundled UNet and autoencoder frozen."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.cameras import orbit
from sds3d.priors.camera_condition import encode_cameras
from sds3d.priors.video.inflated import InflatedUNet
from sds3d.toybox.clips import ClipConfig, clip_caption, composite, describe_clip, load_clips, make_clips
from sds3d.toybox.dataset import FOV_DEG, IMAGE_SIZE
from sds3d.toybox.fast_layers import use_fast_layers
from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.motion_networks import FRAMES, frozen_unet, make_tokenizer, trainable
from sds3d.toybox.networks import CAMERA_CONDITION, make_scheduler
from sds3d.toybox.training import load_autoencoder, write_checksums

LEARNED = ("wave", "walk", "hop", "swim", "flap", "drive", "rock", "sway", "fly")
"""Motions the shipped adapter is trained on: those whose phases one second of eight frames can hold."""
NO_CAMERA_SHARE = 0.05
HIGH_NOISE = 1.5
"""Times are 1 - (1 - u)^HIGH_NOISE of the axis, u uniform: above 1 more of them are high, where motion is decided."""


@dataclass(frozen=True, kw_only=True)
class MotionTrainingConfig:
    """Everything the training of the motion adapter can turn."""

    train: ClipConfig = field(
        default_factory=lambda: ClipConfig(clips=960, frames=FRAMES, motions=LEARNED, from_rest=True)
    )
    validation: ClipConfig = field(
        default_factory=lambda: ClipConfig(clips=108, frames=FRAMES, motions=LEARNED, from_rest=True, seed=100)
    )
    steps: int = 1500
    batch: int = 4
    workers: int = 1
    seed: int = 0

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps, learning_rate=8e-4, warmup=50, cooldown=0.4, average_decay=0.99, log_every=20,
            checkpoint_every=50,
        )  # fmt: skip


@dataclass
class ClipCorpus:
    """Cached latents [N, F, C, h, w] scaled to unit variance, and the records [N] their words come from."""

    latents: NDArray[np.float16]
    records: NDArray[np.void]
    tokenizer: Any

    def __post_init__(self) -> None:
        orbits = torch.from_numpy(np.stack([self.records[k] for k in ("azimuth", "elevation", "distance")], axis=1))
        cameras = orbit(orbits[:, 0], orbits[:, 1], orbits[:, 2], FOV_DEG, IMAGE_SIZE, IMAGE_SIZE)
        self.cameras = encode_cameras(cameras.cam_to_world, CAMERA_CONDITION)

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return (latents [B, C, F, h, w], token ids [B, tokens], camera features [B, D]) with captions drawn anew."""
        rows = rng.integers(len(self.latents), size=size)
        latents = torch.from_numpy(self.latents[rows].astype(np.float32)).transpose(1, 2)
        words = [clip_caption(describe_clip(r), float(r["azimuth"]), float(r["elevation"]), rng)
                 for r in self.records[rows]]  # fmt: skip
        tokens = self.tokenizer(words, padding="max_length", truncation=True, return_tensors="pt").input_ids
        hidden = torch.from_numpy(rng.random(size) < NO_CAMERA_SHARE)
        cameras = self.cameras[torch.from_numpy(rows)].masked_fill(hidden[:, None], 0.0)
        return latents, tokens, cameras


def clip_latents(
    autoencoder: Any, clips: NDArray[np.uint8], seed: int, scale: float, path: Path
) -> NDArray[np.float16]:
    """Return latents [N, F, C, h, w] times `scale`, cached in `path`; a clip has one background, grey for half of them."""
    if path.exists():
        return np.load(path)  # type: ignore[no-any-return]
    rng = np.random.default_rng([seed, 9])
    colours = np.where(rng.random((len(clips), 1)) < 0.5, 0.5, rng.random((len(clips), 3)))
    found = []
    with torch.no_grad():
        for clip, colour in zip(clips, colours, strict=True):
            images = torch.from_numpy(composite(clip, colour)).permute(0, 3, 1, 2) * 2.0 - 1.0
            found.append((autoencoder.encode(images).latents * scale).to(torch.float16).numpy())
    latents = np.stack(found)
    np.save(path.with_suffix(".tmp.npy"), latents)
    path.with_suffix(".tmp.npy").replace(path)
    return latents


def corpora(config: MotionTrainingConfig, prior: Path, work: Path) -> dict[str, ClipCorpus]:
    """Return {"train", "validation"}, rendering and encoding what is missing in `work`."""
    autoencoder, tokenizer = load_autoencoder(prior), make_tokenizer(work / "tokenizer")
    found = {}
    for name in ("train", "validation"):
        wanted: ClipConfig = getattr(config, name)
        for _ in make_clips(work / "clips", wanted, workers=config.workers):
            pass
        clips, records = load_clips(work / "clips", wanted)
        path = work / f"latents-{name}-{wanted.seed}-{wanted.clips}.npy"
        scale = float(autoencoder.config.scaling_factor)
        found[name] = ClipCorpus(clip_latents(autoencoder, clips, wanted.seed, scale, path), records, tokenizer)
    return found


def clip_error(network: Any, text: Any, batch: tuple[Tensor, Tensor, Tensor], time: Tensor, noise: Tensor) -> Tensor:
    """Return the squared v-prediction error of each clip [B]; networks run in their own dtype, the rest in float32."""
    latents, tokens, cameras = batch
    bar = make_scheduler().alphas_cumprod[time][:, None, None, None, None]
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    dtype = next(text.parameters()).dtype
    noisy = (alpha * latents + sigma * noise).to(dtype)
    predicted = network(noisy, time, text(tokens).last_hidden_state, cameras.to(dtype)).float()
    return (predicted - (alpha * noise - sigma * latents)).square().mean(dim=(1, 2, 3, 4))


@torch.no_grad()
def clip_losses(network: Any, text: Any, corpus: ClipCorpus, seed: int = 1, size: int = 48) -> dict[str, float]:
    """Return losses with the right words, with those of another clip, and with the frames of a clip shuffled."""
    rng = np.random.default_rng(seed)
    latents, tokens, cameras = corpus.batch(size, rng)
    time = torch.from_numpy((np.arange(size) * 1000) // size)
    noise = torch.from_numpy(rng.standard_normal(latents.shape).astype(np.float32))
    turn, frames = torch.from_numpy(np.roll(np.arange(size), 5)), torch.from_numpy(rng.permutation(latents.shape[2]))

    def loss(words: Tensor, shown: Tensor) -> float:
        parts = [clip_error(network, text, (shown[c], words[c], cameras[c]), time[c], noise[c])
                 for c in torch.arange(size).split(8)]  # fmt: skip
        return float(torch.cat(parts).mean())

    return {
        "val": loss(tokens, latents),
        "val_shuffled_text": loss(tokens[turn], latents),
        "val_shuffled_frames": loss(tokens, latents[:, :, frames]),
    }


def train_motion(
    out: Path, prior: Path, work: Path, config: MotionTrainingConfig | None = None, **unet: Any
) -> nn.ModuleDict:
    """Train the adapter of the prior folder `prior` into `out`; everything resumes from `work`. Returns what was trained."""
    config = config or MotionTrainingConfig()
    work.mkdir(parents=True, exist_ok=True)
    data = corpora(config, prior, work)
    networks = trainable(prior, len(data["train"].tokenizer), config.seed, **unet)
    base = use_fast_layers(frozen_unet(prior, **unet)).to(torch.bfloat16)
    loop = Loop("motion", work, networks, config.loop(), workers=config.workers)
    loop.load()
    inflated: dict[int, InflatedUNet] = {}
    share = config.batch // config.workers

    def loss_of(step: int, worker: int, twin: nn.ModuleDict) -> Tensor:
        if worker not in inflated:  # hooks are tied to one twin
            inflated[worker] = InflatedUNet(copy.deepcopy(base), twin["adapter"])
        rng = np.random.default_rng([config.seed, 11, step, worker])
        batch = data["train"].batch(share, rng)
        spread = (np.arange(share) + rng.random(share)) / share  # one time from each of `share` equal slices
        time = torch.from_numpy((1000 * (1.0 - (1.0 - spread) ** HIGH_NOISE)).astype(np.int64))
        noise = torch.from_numpy(rng.standard_normal(batch[0].shape).astype(np.float32))
        return clip_error(inflated[worker], twin["text"], batch, time, noise).mean()

    def report(averaged: nn.ModuleDict) -> dict[str, float]:
        averaged = averaged.to(torch.bfloat16)
        return clip_losses(InflatedUNet(copy.deepcopy(base), averaged["adapter"]), averaged["text"], data["validation"])

    loop.run(loss_of, report, report_every=200)
    averaged = loop.averaged()
    write_adapter(out, averaged, work, config, {"steps": loop.step, "train_seconds": round(loop.seconds)})
    return averaged


def write_adapter(
    out: Path, networks: nn.ModuleDict, work: Path, config: MotionTrainingConfig, said: dict[str, Any]
) -> None:
    """Write the folder of a motion adapter with words of its own: safetensors in float16, tokenizer, scheduler, notes."""
    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    folders: dict[str, Any] = {"adapter": temporary, "text": temporary / "text_encoder"}
    for name, folder in folders.items():
        network: Any = networks[name].to(torch.float16)
        network.save_pretrained(folder)
    make_scheduler().save_pretrained(temporary / "scheduler")
    shutil.copytree(work / "tokenizer", temporary / "tokenizer")
    (temporary / "sds3d.json").write_text(json.dumps(metadata(config) | said, indent=2) + "\n")
    write_checksums(temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def metadata(config: MotionTrainingConfig) -> dict[str, Any]:
    """Return what sds3d.json says of the bundled motion adapter."""
    from sds3d.toybox.motions import MOTIONS, motion_vocabulary
    from sds3d.toybox.training import metadata as of_pictures

    motions = config.train.motions or tuple(MOTIONS)
    pictures = of_pictures(CAMERA_CONDITION)
    return pictures | {
        "name": "toybox-motion",
        "base": "toybox",
        "frames": config.train.frames,
        "motions": {name: MOTIONS[name].words for name in motions},
        "words": sorted({*pictures["words"], *motion_vocabulary()}),
    }
