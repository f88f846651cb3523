"""`launch.py prior train`: render the set, train autoencoder, UNet + text encoder and judge, write the shipped folders."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.doctor import CHECKSUMS
from sds3d.toybox.dataset import IMAGE_SIZE, SetConfig, load_set, make_set
from sds3d.toybox.loop import LoopConfig
from sds3d.toybox.palette import COLORS, NOUNS

PARTS = {
    "scheduler": ["diffusers", "DDPMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}
"""Parts of a prior's folder and their classes, as model_index.json has them."""
VARIANTS = 1
"""Backgrounds every image is encoded on: grey for half of the images, a random colour for the others."""

Rendered = tuple[NDArray[np.uint8], NDArray[np.void]]


@dataclass(frozen=True, kw_only=True)
class PriorConfig:
    """Everything `prior train` can turn: data, length of the three trainings, seed.

    The prior never sees a held-out pair. The judge sees specimens of them (`judge_extra`): it must tell a white dog from a
    white duck without leaning on the pairs it knows.
    """

    train: SetConfig = field(default_factory=lambda: SetConfig())
    validation: SetConfig = field(default_factory=lambda: SetConfig(objects=480, views=4, seed=100))
    held_out: SetConfig = field(default_factory=lambda: SetConfig(objects=480, views=4, seed=200, pairs="held-out"))
    judge_extra: SetConfig = field(default_factory=lambda: SetConfig(objects=1440, views=6, seed=400, pairs="held-out"))
    autoencoder_steps: int = 1100
    diffusion_steps: int = 24000
    diffusion_cooldown: float = 0.35
    judge_steps: int = 2600
    seed: int = 0

    def autoencoder_loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.autoencoder_steps, learning_rate=1.5e-3, betas=(0.9, 0.98), cooldown=0.6, weight_decay=0.0
        )

    def diffusion_loop(self) -> LoopConfig:
        return LoopConfig(steps=self.diffusion_steps, learning_rate=6e-4, warmup=200, cooldown=self.diffusion_cooldown)

    def judge_loop(self) -> LoopConfig:
        return LoopConfig(
            steps=self.judge_steps, learning_rate=2e-3, betas=(0.9, 0.98), cooldown=0.7, average_decay=0.99
        )


def sets(
    config: PriorConfig, work: Path, names: tuple[str, ...] = ("train", "validation", "held_out", "judge_extra")
) -> dict[str, Rendered]:
    """Return the rendered sets by the names of their fields in `config`, rendering what is missing."""
    found = {}
    for name in names:
        wanted: SetConfig = getattr(config, name)
        for _ in make_set(work / "data", wanted):
            pass
        found[name] = load_set(work / "data", wanted)
    return found


def judge_data(rendered: dict[str, Rendered]) -> Rendered:
    """Return the judge's images and records: every third image of the training set, and all of the extra pairs."""
    images, records = rendered["train"]
    extra_images, extra_records = rendered["judge_extra"]
    return np.concatenate([images[::3], extra_images]), np.concatenate([records[::3], extra_records])


def latents_of(
    autoencoder: Any, images: NDArray[np.uint8], name: str, variants: int, work: Path
) -> NDArray[np.float16]:
    """Return unscaled latents [variants, N, C, h, w] of a set, cached in `work`."""
    from sds3d.toybox.autoencoder import encode_set

    path = work / f"latents-{name}-{variants}.npy"
    if not path.exists():
        latents, _ = encode_set(autoencoder, images, variants, seed=5)
        np.save(path.with_suffix(".tmp.npy"), latents)
        path.with_suffix(".tmp.npy").replace(path)
    return np.load(path)  # type: ignore[no-any-return]


def corpora(config: PriorConfig, work: Path, rendered: dict[str, Rendered], autoencoder: Any) -> dict[str, Any]:
    """Return {"train", "validation"} corpora of scaled latents, and the "scale" that gives them unit variance."""
    from transformers import CLIPTokenizer

    from sds3d.toybox.diffusion import Corpus
    from sds3d.toybox.tokenizer import write_tokenizer

    write_tokenizer(work / "tokenizer")
    tokenizer = CLIPTokenizer.from_pretrained(work / "tokenizer", local_files_only=True)
    train = latents_of(autoencoder, rendered["train"][0], "train", VARIANTS, work)
    scale = 1.0 / float(train[0, : 1 << 14].astype(np.float32).std())
    validation = latents_of(autoencoder, rendered["validation"][0], "validation", 1, work)
    return {
        "train": Corpus((train * np.float16(scale)).astype(np.float16), rendered["train"][1], tokenizer),
        "validation": Corpus((validation * np.float16(scale)).astype(np.float16), rendered["validation"][1], tokenizer),
        "scale": scale,
    }


def train(out: Path, work: Path, config: PriorConfig | None = None, start: Path | None = None) -> None:
    """Train the prior into `out` and the judge into `out.parent.parent / "judge"`; everything resumes from `work`.

    With `start`, an existing prior folder, its autoencoder is kept and its other networks are trained further.
    """
    from sds3d.metrics.silhouette import save_references
    from sds3d.toybox.autoencoder import train_autoencoder
    from sds3d.toybox.diffusion import train_diffusion
    from sds3d.toybox.judge import evaluate_judge, save_judge, train_judge

    config = config or PriorConfig()
    rendered = sets(config, work)
    if start is None:
        autoencoder = train_autoencoder(rendered["train"][0], work, config.autoencoder_loop(), config.seed)
    else:
        autoencoder = load_autoencoder(start)
    corpus = corpora(config, work, rendered, autoencoder)
    networks = train_diffusion(
        corpus["train"], corpus["validation"], work, config.diffusion_loop(), config.seed, start=start
    )
    write_prior(out, autoencoder, networks, corpus["scale"], work)
    judge = train_judge(*judge_data(rendered), work, config.judge_loop(), config.seed)
    report = {name: evaluate_judge(judge, *rendered[name]) for name in ("validation", "held_out")}
    save_judge(judge, out.parent.parent / "judge", report)
    save_references(out.parent.parent / "judge")


def load_autoencoder(prior: Path) -> Any:
    """Return the autoencoder of a prior folder in float32."""
    import torch
    from diffusers import AutoencoderTiny

    found = AutoencoderTiny.from_pretrained(prior / "vae", torch_dtype=torch.float32, local_files_only=True)
    return found.to(memory_format=torch.channels_last).eval()


def write_prior(out: Path, autoencoder: Any, networks: Any, scale: float, work: Path) -> None:
    """Write the diffusers pipeline folder `out`: safetensors in float16, tokenizer, scheduler, model_index and sds3d.json."""
    import torch

    from sds3d.toybox.networks import CAMERA_CONDITION

    absent = {key: [None, None] for key in ("feature_extractor", "image_encoder", "safety_checker")}
    index = {"_class_name": "StableDiffusionPipeline", "requires_safety_checker": False, **absent}
    with prior_folder(out, networks, work, index, metadata(CAMERA_CONDITION)) as folder:
        autoencoder.register_to_config(scaling_factor=scale)
        autoencoder.to(torch.float16).save_pretrained(folder / "vae")


@contextmanager
def prior_folder(out: Path, networks: Any, work: Path, index: dict[str, Any], notes: dict[str, Any]) -> Iterator[Path]:
    """Give a folder with all of a prior but its autoencoder, which the caller adds; then it takes the place of `out`.

    index: what model_index.json says besides the parts. notes: what sds3d.json says.
    """
    import diffusers
    import torch

    from sds3d.toybox.networks import make_scheduler

    temporary = out.with_name(out.name + ".partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    # The fast layers only exist in training: plain classes carry the same parameters.
    plain = diffusers.UNet2DConditionModel.from_config(networks["unet"].config)
    plain.load_state_dict(networks["unet"].state_dict())
    plain.to(torch.float16).save_pretrained(temporary / "unet")
    networks["text"].to(torch.float16).save_pretrained(temporary / "text_encoder")
    make_scheduler().save_pretrained(temporary / "scheduler")
    shutil.copytree(work / "tokenizer", temporary / "tokenizer")
    yield temporary
    whole = {**index, **PARTS, "_diffusers_version": diffusers.__version__}
    (temporary / "model_index.json").write_text(json.dumps(whole, indent=2, sort_keys=True) + "\n")
    (temporary / "sds3d.json").write_text(json.dumps(notes, indent=2) + "\n")
    write_checksums(temporary)
    shutil.rmtree(out, ignore_errors=True)
    temporary.rename(out)


def write_checksums(folder: Path) -> Path:
    """Write SHA256SUMS over all files of `folder`, as `sha256sum` prints them; `launch.py doctor` verifies it."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder).as_posix()}\n" for p in files]
    (folder / CHECKSUMS).write_text("".join(lines))
    return folder / CHECKSUMS


def metadata(camera_condition: str) -> dict[str, Any]:
    """Return what sds3d.json says of the bundled prior."""
    from sds3d.toybox.captions import vocabulary
    from sds3d.toybox.tokenizer import MAX_TOKENS

    return {
        "name": "toybox",
        "licence": "Apache-2.0",
        "image_size": IMAGE_SIZE,
        "camera_condition": camera_condition,
        "text_tokens": MAX_TOKENS,
        "nouns": list(NOUNS),
        "colours": list(COLORS),
        "words": vocabulary(),
    }
