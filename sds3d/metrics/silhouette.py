"""The silhouette test: does the outline of an asset look like its noun, among all toybox nouns?

A classifier is forced to answer and rates blobs highly; outlines are not fooled so easily. The toybox is procedural, so the
truth can be drawn: a few random specimens of every noun.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.export.atomic import atomic_path
from sds3d.toybox.palette import NOUNS

VIEWS, ELEVATION_DEG, DISTANCE, SIZE, SPECIMENS = 8, 20.0, 2.5, 64, 4


SEED = 77
SHIPPED = "silhouettes.npz"
"""The packed reference masks of `SEED`, beside the judge: drawing them anew takes seconds."""


def draw_references(nouns: Sequence[str] = NOUNS, seed: int = SEED) -> NDArray[np.bool_]:
    """Return masks [nouns, specimens, views, size, size] of plain random specimens, drawn by the toybox."""
    from sds3d.cameras import turntable
    from sds3d.toybox.captions import Description
    from sds3d.toybox.dataset import build
    from sds3d.toybox.raster import render_rgba

    matrices = turntable(VIEWS, SIZE, ELEVATION_DEG, DISTANCE).cam_to_world.numpy()
    masks = np.zeros((len(nouns), SPECIMENS, VIEWS, SIZE, SIZE), np.bool_)
    for n, noun in enumerate(nouns):
        for s in range(SPECIMENS):
            specimen = np.random.default_rng([seed, NOUNS.index(noun), s])
            mesh = build(Description(noun=noun, color="red"), specimen)
            for v, matrix in enumerate(matrices):
                masks[n, s, v] = render_rgba(mesh, matrix, SIZE)[..., 3] > 127
    return masks


def save_references(folder: Path) -> Path:
    """Write the masks of `SEED` into `folder`, one bit a pixel."""
    path = folder / SHIPPED
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, bits=np.packbits(draw_references(), axis=-1))
    return path


@lru_cache(maxsize=2)
def load_references(seed: int = SEED) -> NDArray[np.bool_]:
    """Return the reference masks, from the shipped file if it is there and has that seed, else drawn."""
    from sds3d.toybox.judge import default_judge

    path = default_judge() / SHIPPED
    if seed != SEED or not path.is_file():
        return draw_references(seed=seed)
    with np.load(path, allow_pickle=False) as file:
        return np.unpackbits(file["bits"], axis=-1).astype(np.bool_)


def silhouette_scores(alpha: NDArray[np.float32], seed: int = SEED) -> dict[str, float]:
    """Return {noun: mean mask IoU over the views, the best of four specimens}.

    Args:
        alpha: [8, 64, 64] in [0, 1], the asset from azimuths 0, 45, ... 315 at elevation 20 and distance 2.5 (fov 45), as
            `sds3d.cameras.turntable(8, 64, 20, 2.5)` makes them.
    """
    references = load_references(seed)
    mask = alpha > 0.5
    both = (references & mask).sum(axis=(-1, -2))
    either = np.maximum((references | mask).sum(axis=(-1, -2)), 1)
    best = (both / either).mean(axis=-1).max(axis=-1)
    return {noun: float(score) for noun, score in zip(NOUNS, best, strict=True)}


def silhouette_rank(alpha: NDArray[np.float32], noun: str, seed: int = SEED) -> tuple[int, float]:
    """Return (rank of `noun` among all nouns, 1 = its outline fits best; its IoU) for masks as in `silhouette_scores`."""
    scores = silhouette_scores(alpha, seed)
    return 1 + sum(score > scores[noun] for score in scores.values()), scores[noun]
