"""The training set of the bundled prior: specimens drawn by seed, rendered to shards on disk (regenerated, never shipped)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLOR_JITTER, COLORS, NOUNS, is_held_out
from sds3d.toybox.shape import Shape, ToyMesh

IMAGE_SIZE, FOV_DEG = 64, 45.0
DISTANCE = (2.3, 2.7)
OBJECTS_PER_SHARD = 240
HEIGHT_SCALES = {"tall": 1.4, "short": 0.68, "": 1.0}
STRIPE = {True: COLORS["black"], False: COLORS["white"]}
"""Colour of the bands: black on white objects, white on all others."""

RECORD = np.dtype(
    [("noun", "i2"), ("color", "i2"), ("height", "i2"), ("striped", "?"), ("base", "?"),
     ("azimuth", "f4"), ("elevation", "f4"), ("distance", "f4")]
)  # fmt: skip
HEIGHTS = ("", "tall", "short")


@dataclass(frozen=True, kw_only=True)
class SetConfig:
    """Which specimens a set holds. `pairs`: "train" (never a held-out pair), "held-out" (only those) or "all"."""

    objects: int = 7200
    views: int = 12
    seed: int = 0
    pairs: str = "train"


def draw_description(index: int, pairs: str, rng: np.random.Generator) -> Description:
    """Return the words of specimen `index`; nouns take turns, so every noun is equally frequent."""
    noun = NOUNS[index % len(NOUNS)]
    allowed = [c for c in COLORS if pairs == "all" or is_held_out(noun, c) == (pairs == "held-out")]
    height = rng.random()
    return Description(
        noun=noun,
        color=allowed[rng.integers(len(allowed))],
        height="tall" if height < 0.12 else "short" if height < 0.24 else "",
        is_striped=bool(rng.random() < 0.15),
        has_base=bool(rng.random() < 0.12),
    )


def build(what: Description, rng: np.random.Generator) -> ToyMesh:
    """Return one random specimen of a description; equal generators give equal specimens."""
    from sds3d.toybox.objects import builders

    color = np.clip(np.array(COLORS[what.color]) + COLOR_JITTER * (2 * rng.random(3) - 1), 0.0, 1.0)
    shape = Shape(main=color, stripe=STRIPE[what.color == "white"] if what.is_striped else None)
    builders()[what.noun](shape, rng)
    return shape.mesh(height_scale=HEIGHT_SCALES[what.height], base=what.has_base)


def draw_orbit(views: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return [views, 3] azimuth (uniform), elevation (60 % in -10..60, 40 % in 0..35) in degrees and distance."""
    wide = rng.random(views) < 0.6
    elevation = np.where(wide, rng.uniform(-10.0, 60.0, views), rng.uniform(0.0, 35.0, views))
    azimuth = rng.uniform(0.0, 360.0, views)
    return np.stack([azimuth, elevation, rng.uniform(*DISTANCE, views)], axis=1).astype(np.float32)


def _make_shard(task: tuple[Path, SetConfig, int, int]) -> Path:
    import torch

    from sds3d.cameras import orbit
    from sds3d.toybox.raster import render_rgba

    path, config, first, count = task
    images = np.zeros((count * config.views, IMAGE_SIZE, IMAGE_SIZE, 4), np.uint8)
    records = np.zeros(count * config.views, RECORD)
    for k in range(count):
        rng = np.random.default_rng([config.seed, first + k])
        what = draw_description(first + k, config.pairs, rng)
        mesh = build(what, rng)
        views = torch.from_numpy(draw_orbit(config.views, rng))
        matrices = orbit(views[:, 0], views[:, 1], views[:, 2], FOV_DEG, IMAGE_SIZE, IMAGE_SIZE).cam_to_world.numpy()
        for v, matrix in enumerate(matrices):
            row = k * config.views + v
            images[row] = render_rgba(mesh, matrix, IMAGE_SIZE, FOV_DEG)
            words = (NOUNS.index(what.noun), list(COLORS).index(what.color), HEIGHTS.index(what.height))
            records[row] = (*words, what.is_striped, what.has_base, *views[v].tolist())
    temporary = path.with_suffix(".tmp.npz")
    np.savez(temporary, images=images, records=records)
    os.replace(temporary, path)
    return path


def make_set(folder: Path, config: SetConfig, workers: int = 2) -> Iterator[Path]:
    """Render the set into shards under `folder`, yielding each finished one; shards already there are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = []
    for first in range(0, config.objects, OBJECTS_PER_SHARD):
        path = folder / f"{config.pairs}-seed{config.seed}-{config.views}views-{first:06d}.npz"
        if not path.exists():
            tasks.append((path, config, first, min(OBJECTS_PER_SHARD, config.objects - first)))
    if not tasks:
        return
    with ProcessPoolExecutor(max_workers=workers) as pool:
        yield from pool.map(_make_shard, tasks)


def load_set(folder: Path, config: SetConfig) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """Return (images [N, 64, 64, 4] premultiplied RGBA, records [N]) of a finished set, in order."""
    pattern = f"{config.pairs}-seed{config.seed}-{config.views}views-*.npz"
    shards = [np.load(path) for path in sorted(folder.glob(pattern))]
    if not shards:
        raise FileNotFoundError(f"no shard of the set '{pattern}' in {folder}; run make_set first")
    count = config.objects * config.views
    images = np.concatenate([s["images"] for s in shards])[:count]
    return images, np.concatenate([s["records"] for s in shards])[:count]


def describe(record: np.void) -> Description:
    """Return the words of one image's record."""
    return Description(
        noun=NOUNS[record["noun"]],
        color=list(COLORS)[record["color"]],
        height=HEIGHTS[record["height"]],
        is_striped=bool(record["striped"]),
        has_base=bool(record["base"]),
    )
