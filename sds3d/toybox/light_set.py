"""The files of a set of lit toys (`systems.light_pictures` draws them), and their latents."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.priors.unet_prior import resized
from sds3d.toybox.dataset import IMAGE_SIZE, RECORD
from sds3d.toybox.diffusion import Corpus

CONDITIONS = ("depth", "normal", "light")
"""Condition pictures in the order of the 22 channels (`renderers.conditions`)."""
GEOMETRY = 4
"""Of the 22 channels the first so many are depth and normals, the others light."""
LIGHT_RECORD = np.dtype(
    [*RECORD.descr, ("light", "i2"), ("angle", "f4"), ("roughness", "f4"), ("metallic", "f4"), ("is_drawn", "?")]
)
SIDES = (IMAGE_SIZE, IMAGE_SIZE // 2)
"""Pixels the pictures of each variant were drawn with: the prior's own size, and that of runs under --tiny, enlarged."""
GREY_SHARE = 0.4
EMPTY_SHARE = 0.15
"""Share of captions that are taken away, beside those `caption` leaves empty: unprompted predictions are told the light too."""


@dataclass(frozen=True)
class LightFiles:
    """The folder of a set: conditions [N, 22, 64, 64] uint8, pictures [N, 64, 64, 4] uint8 (premultiplied), records [N]."""

    folder: Path

    @property
    def conditions(self) -> Path:
        return self.folder / "conditions.npy"

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures.npy"

    @property
    def records(self) -> Path:
        return self.folder / "records.npy"

    @property
    def paths(self) -> tuple[Path, Path, Path]:
        return self.conditions, self.pictures, self.records


def shrunk(images: Tensor, side: int) -> Tensor:
    """Return images [B, C, S, S] as they would be, had they been drawn with `side` pixels and enlarged for the prior."""
    full = images.shape[-1]
    if side == full:
        return images
    return resized(torch.nn.functional.avg_pool2d(images, full // side), full)


@torch.no_grad()
def light_latents(autoencoder: Any, files: LightFiles, seed: int) -> NDArray[np.float16]:
    """Return latents [len(SIDES), N, C, h, w] of unit variance, each on a background of its own; kept beside the pictures."""
    path = files.folder / f"latents-{seed}.npy"
    if path.exists():
        return np.load(path)  # type: ignore[no-any-return]
    pictures, rng = np.load(files.pictures, mmap_mode="r"), np.random.default_rng([seed, 41])
    encoder, scale = autoencoder.to(torch.bfloat16), float(autoencoder.config.scaling_factor)
    found = []
    for side in SIDES:
        for rows in np.array_split(np.arange(len(pictures)), max(1, len(pictures) // 64)):
            grey = rng.random(len(rows)) < GREY_SHARE
            behind = np.where(grey[:, None], 0.5, rng.random((len(rows), 3))).astype(np.float32)
            rgba = torch.from_numpy(pictures[rows]).permute(0, 3, 1, 2).float() / 255.0
            whole = rgba[:, :3] + (1.0 - rgba[:, 3:]) * torch.from_numpy(behind)[..., None, None]
            image = (shrunk(whole, side) * 2.0 - 1.0).to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
            found.append((encoder.encode(image).latents.float() * scale).to(torch.float16).numpy())
    latents = np.concatenate(found).reshape(len(SIDES), len(pictures), *found[0].shape[1:])
    np.save(path.with_suffix(".tmp.npy"), latents)
    path.with_suffix(".tmp.npy").replace(path)
    return latents


@dataclass
class LightCorpus(Corpus):
    """Latents [variants, N, C, h, w] of lit toys, their records [N], and the condition pictures [N, 22, 64, 64] of each."""

    conditions: NDArray[np.uint8] | None = None

    def control(self, rows: NDArray[np.intp], variants: NDArray[np.intp]) -> Tensor:
        """Return condition pictures [B, 22, 64, 64] in [0, 1]."""
        assert self.conditions is not None
        pictures = torch.from_numpy(self.conditions[rows]).float() / 255.0
        for number, side in enumerate(SIDES):
            here = torch.from_numpy(np.flatnonzero(variants == number))
            if len(here) and side != pictures.shape[-1]:
                pictures[here] = shrunk(pictures[here], side)
        return pictures

    def lit(self, rows: NDArray[np.intp], rng: np.random.Generator) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Return (latents, token ids, camera features) of rows, captions and sizes drawn anew, and the conditions."""
        from sds3d.toybox.captions import caption
        from sds3d.toybox.dataset import describe
        from sds3d.toybox.diffusion import NO_CAMERA_SHARE

        variants = rng.integers(len(self.latents), size=len(rows))
        latents = torch.from_numpy(self.latents[variants, rows].astype(np.float32))
        words = [caption(describe(r), float(r["azimuth"]), float(r["elevation"]), rng) for r in self.records[rows]]
        words = ["" if draw < EMPTY_SHARE else text for text, draw in zip(words, rng.random(len(rows)), strict=True)]
        hidden = torch.from_numpy(rng.random(len(rows)) < NO_CAMERA_SHARE)
        cameras = self.cameras[torch.from_numpy(rows)].masked_fill(hidden[:, None], 0.0)
        return (latents, torch.stack([self.tokens(text) for text in words]), cameras), self.control(rows, variants)
