"""Train the bundled video prior: an ordinary UNet whose channels are the frames of a clip, on clips of toys."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sds3d.priors.video.stacked import FrameBalance
from sds3d.toybox.clips import ClipConfig, clip_caption, clip_phrase, composite, describe_clip, load_clips, make_clips
from sds3d.toybox.diffusion import Corpus
from sds3d.toybox.fast_layers import use_fast_layers
from sds3d.toybox.loop import Loop, LoopConfig
from sds3d.toybox.motion_networks import FRAMES, make_tokenizer, trainable
from sds3d.toybox.motions import MOTIONS, motion_vocabulary, motions_of
from sds3d.toybox.networks import CAMERA_CONDITION, make_scheduler
from sds3d.toybox.training import load_autoencoder, prior_folder
from sds3d.toybox.training import metadata as metadata_of_pictures

LEARNED = ("wave", "walk", "hop", "swim", "flap", "drive", "rock", "sway", "fly")
"""Motions the shipped prior is trained on: those whose phases one second of eight frames can hold."""
NO_CAMERA_SHARE = 0.05
HIGH_NOISE = 1.5
"""Times are 1 - (1 - u)^HIGH_NOISE of the axis, u uniform: above 1 more of them are high, where motion is decided."""
BACKGROUNDS = 2
"""Backgrounds every clip is encoded on: grey, and a random colour."""
GREY_SHARE = 0.6
STILL_WEIGHT = 6.0
"""Weight of the mean frame beside 1 for each other row over time: what a thing looks like is told by it alone."""
NAME = "toybox-motion"


@dataclass(frozen=True, kw_only=True)
class MotionTrainingConfig:
    """Everything the training of the bundled video prior can turn."""

    train: ClipConfig = field(
        default_factory=lambda: ClipConfig(clips=4800, frames=FRAMES, motions=LEARNED, from_rest=True)
    )
    validation: ClipConfig = field(
        default_factory=lambda: ClipConfig(clips=240, frames=FRAMES, motions=LEARNED, from_rest=True, seed=100)
    )
    steps: int = 4000
    batch: int = 32
    learning_rate: float = 6e-4
    workers: int = 2
    seed: int = 0
    from_pictures: bool = True

    def loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.steps, learning_rate=self.learning_rate, warmup=100, cooldown=0.4, average_decay=0.995,
            log_every=50, checkpoint_every=100,
        )  # fmt: skip


@dataclass
class ClipCorpus(Corpus):
    """Cached latents [variants, N, F, C, h, w] scaled to unit variance, and the records [N] their words come from."""

    def clips(self, rows: NDArray[np.intp], variants: NDArray[np.intp]) -> Tensor:
        """Return latents [B, C, F, h, w] of clips."""
        return torch.from_numpy(self.latents[variants, rows].astype(np.float32)).transpose(1, 2)

    def scales(self, count: int = 480) -> Tensor:
        """Return root mean squares [F] of the cosine transform over time of the first `count` clips, three digits each."""
        some = torch.from_numpy(self.latents[:, :count].astype(np.float32)).flatten(0, 1).transpose(1, 2)
        found = FrameBalance(torch.ones(some.shape[2])).rows(some).square().mean(dim=(0, 1, 3, 4)).sqrt()
        return torch.tensor([float(f"{value:.3g}") for value in found])

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Return (latents [B, C, F, h, w], token ids [B, tokens], camera features [B, D]) with captions drawn anew."""
        rows = rng.integers(self.latents.shape[1], size=size)
        last = len(self.latents) - 1
        variants = np.where(rng.random(size) < GREY_SHARE, 0, rng.integers(min(last, 1), last + 1, size=size))
        words = [clip_caption(describe_clip(r), float(r["azimuth"]), float(r["elevation"]), rng)
                 for r in self.records[rows]]  # fmt: skip
        hidden = torch.from_numpy(rng.random(size) < NO_CAMERA_SHARE)
        cameras = self.cameras[torch.from_numpy(rows)].masked_fill(hidden[:, None], 0.0)
        return self.clips(rows, variants), torch.stack([self.tokens(w) for w in words]), cameras


def clip_latents(autoencoder: Any, clips: NDArray[np.uint8], seed: int, path: Path) -> NDArray[np.float16]:
    """Return latents [BACKGROUNDS, N, F, C, h, w] of unit variance, cached in `path`; a clip has one background.

    The encoder runs in bfloat16, four times as fast on CPUs that have it; its latents are about 1 % off.
    """
    if path.exists():
        return np.load(path)  # type: ignore[no-any-return]
    scale = float(autoencoder.config.scaling_factor)
    colours = np.random.default_rng([seed, 9]).random((BACKGROUNDS, len(clips), 3))
    colours[0] = 0.5
    encoder, found = autoencoder.to(torch.bfloat16), []
    with torch.no_grad():
        for variant in colours:
            for clip, colour in zip(clips, variant, strict=True):
                images = torch.from_numpy(composite(clip, colour)).permute(0, 3, 1, 2) * 2.0 - 1.0
                images = images.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
                found.append((encoder.encode(images).latents.float() * scale).to(torch.float16).numpy())
    latents = np.stack(found).reshape(BACKGROUNDS, len(clips), *found[0].shape)
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
        path = work / f"latents-{name}-{wanted.seed}-{wanted.clips}x{BACKGROUNDS}.npy"
        found[name] = ClipCorpus(clip_latents(autoencoder, clips, wanted.seed, path), records, tokenizer)
    return found


def other_motion(record: np.void) -> str:
    """Return the caption of a moving clip with another motion that suits its noun, or none at all where there is none."""
    clip = describe_clip(record)
    suits = [name for name in motions_of(clip.what.noun) if name in LEARNED]
    after = suits[(suits.index(clip.motion) + 1) % len(suits)] if clip.motion in suits else ""
    return clip_phrase(replace(clip, motion="" if after == clip.motion else after))


def clip_error(
    networks: nn.ModuleDict, balance: FrameBalance, batch: tuple[Tensor, Tensor, Tensor], time: Tensor, noise: Tensor
) -> Tensor:
    """Return squared errors [B, 2] of each clip: of what the network answers (a weighted mean over rows), and of v.

    The networks run in their own dtype, the rest in float32.
    """
    latents, tokens, cameras = batch
    bar = make_scheduler().alphas_cumprod[time][:, None, None, None, None]
    alpha, sigma = bar.sqrt(), (1 - bar).sqrt()
    noisy, v = alpha * latents + sigma * noise, alpha * noise - sigma * latents
    dtype = next(networks["unet"].parameters()).dtype
    hidden = networks["text"](tokens).last_hidden_state
    seen = balance.inputs(noisy, alpha, sigma).to(dtype)
    answer = networks["unet"](seen, time, hidden, class_labels=cameras.to(dtype)).sample.float()
    missed = (answer - balance.target(v, noisy, alpha, sigma)).square()
    rows = missed.unflatten(1, (latents.shape[2], -1)).mean(dim=(2, 3, 4))
    found = (rows.sum(dim=1) + (STILL_WEIGHT - 1) * rows[:, 0]) / (rows.shape[1] + STILL_WEIGHT - 1)
    with torch.no_grad():
        error = (balance.velocity(answer, noisy, alpha, sigma) - v).square().mean(dim=(1, 2, 3, 4))
    return torch.stack([found, error], dim=1)


@torch.no_grad()
def clip_losses(
    networks: nn.ModuleDict, balance: FrameBalance, corpus: ClipCorpus, seed: int = 1, size: int = 160
) -> dict[str, float]:
    """Return losses of clips that move: as they are, with the words of another clip, with the word of another motion and
    with frames shuffled; same times and noise. "val_v" is the mean squared error of v of the first."""
    rng = np.random.default_rng(seed)
    moving = np.flatnonzero(corpus.records["motion"] >= 0)
    rows = rng.permutation(np.resize(rng.permutation(moving), size))
    shown = corpus.clips(rows, np.zeros(size, np.intp))
    right = torch.stack([corpus.tokens(clip_phrase(describe_clip(corpus.records[row]))) for row in rows])
    wrong = torch.stack([corpus.tokens(other_motion(corpus.records[row])) for row in rows])
    time = torch.from_numpy((np.arange(size) * 1000) // size)
    noise = torch.from_numpy(rng.standard_normal(shown.shape).astype(np.float32))
    frames = corpus.latents.shape[2]
    mixed = shown[:, :, torch.from_numpy(rng.permutation(frames))]
    cameras = corpus.cameras[torch.from_numpy(rows)]

    def loss(words: Tensor, clips: Tensor) -> tuple[float, float]:
        parts = [clip_error(networks, balance, (clips[c], words[c], cameras[c]), time[c], noise[c])
                 for c in torch.arange(size).split(40)]  # fmt: skip
        balanced, v = torch.cat(parts).mean(dim=0).tolist()
        return balanced, v

    val, val_v = loss(right, shown)
    return {
        "val": val,
        "val_shuffled_text": loss(right.roll(37, dims=0), shown)[0],
        "val_wrong_motion": loss(wrong, shown)[0],
        "val_shuffled_frames": loss(right, mixed)[0],
        "val_v": val_v,
    }


def train_motion(
    out: Path, prior: Path, work: Path, config: MotionTrainingConfig | None = None, **unet: Any
) -> nn.ModuleDict:
    """Train the video prior into the folder `out`, beginning with the prior of pictures in the folder `prior`.

    Everything resumes from `work`. Returns what was trained, {"unet", "text"}, with averaged weights.
    """
    config = config or MotionTrainingConfig()
    work.mkdir(parents=True, exist_ok=True)
    data = corpora(config, prior, work)
    networks = trainable(prior, len(data["train"].tokenizer), config.seed, config.from_pictures, **unet)
    use_fast_layers(networks["unet"])
    balance = FrameBalance(scales := data["train"].scales())
    loop = Loop("stacked", work, networks, config.loop(), workers=config.workers)
    loop.load()
    share = config.batch // config.workers

    def loss_of(step: int, worker: int, twin: nn.ModuleDict) -> Tensor:
        rng = np.random.default_rng([config.seed, 11, step, worker])
        batch = data["train"].batch(share, rng)
        spread = (np.arange(share) + rng.random(share)) / share  # one time from each of `share` equal slices
        time = torch.from_numpy((1000 * (1.0 - (1.0 - spread) ** HIGH_NOISE)).astype(np.int64))
        noise = torch.from_numpy(rng.standard_normal(batch[0].shape).astype(np.float32))
        return clip_error(twin, balance, batch, time, noise)[:, 0].mean()

    def report(averaged: nn.ModuleDict) -> dict[str, float]:
        return clip_losses(averaged.to(torch.bfloat16), balance, data["validation"])

    loop.run(loss_of, report, report_every=200)
    averaged = loop.averaged()
    said = {"frame_scales": [float(f"{value:.3g}") for value in scales], "steps": loop.step}
    write_motion_prior(out, prior, averaged, work, config, said | {"train_seconds": round(loop.seconds)})
    return averaged


def write_motion_prior(
    out: Path, prior: Path, networks: nn.ModuleDict, work: Path, config: MotionTrainingConfig, said: dict[str, Any]
) -> None:
    """Write the folder of a video prior: networks in float16; autoencoder and noise schedule are those of `prior`."""
    with prior_folder(out, networks, work, {"_class_name": "StackedFramesPipeline"}, metadata(config) | said) as folder:
        shutil.copytree(prior / "vae", folder / "vae")


def metadata(config: MotionTrainingConfig) -> dict[str, Any]:
    """Return what sds3d.json says of the bundled video prior."""
    pictures = metadata_of_pictures(CAMERA_CONDITION)
    return pictures | {
        "name": NAME,
        "base": "toybox",
        "frames": config.train.frames,
        "motions": {name: MOTIONS[name].words for name in config.train.motions or tuple(MOTIONS)},
        "words": sorted({*pictures["words"], *motion_vocabulary()}),
    }
