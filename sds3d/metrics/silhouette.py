"""The silhouette test: does the outline of an asset look like its noun, among all toybox nouns?

A classifier is forced to answer and rates blobs highly; outlines are not fooled so easily. The toybox is procedural, so the
truth can be drawn: a few random specimens of every noun.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sds3d.toybox.palette import NOUNS

VIEWS, ELEVATION_DEG, DISTANCE, SIZE, SPECIMENS = 8, 20.0, 2.5, 64, 4


@lru_cache(maxsize=2)
def _references(seed: int) -> NDArray[np.bool_]:
    """Return masks [nouns, specimens, views, size, size] of plain random specimens."""
    from sds3d.cameras import turntable
    from sds3d.toybox.captions import Description
    from sds3d.toybox.dataset import build
    from sds3d.toybox.raster import render_rgba

    matrices = turntable(VIEWS, SIZE, ELEVATION_DEG, DISTANCE).cam_to_world.numpy()
    masks = np.zeros((len(NOUNS), SPECIMENS, VIEWS, SIZE, SIZE), np.bool_)
    for n, noun in enumerate(NOUNS):
        for s in range(SPECIMENS):
            mesh = build(Description(noun=noun, color="red"), np.random.default_rng([seed, n, s]))
            for v, matrix in enumerate(matrices):
                masks[n, s, v] = render_rgba(mesh, matrix, SIZE)[..., 3] > 127
    return masks


def silhouette_scores(alpha: NDArray[np.float32], seed: int = 77) -> dict[str, float]:
    """Return {noun: mean mask IoU over the views, the best of four specimens}.

    Args:
        alpha: [8, 64, 64] in [0, 1], the asset from azimuths 0, 45, ... 315 at elevation 20 and distance 2.5 (fov 45), as
            `sds3d.cameras.turntable(8, 64, 20, 2.5)` makes them.
    """
    references = _references(seed)
    mask = alpha > 0.5
    both = (references & mask).sum(axis=(-1, -2))
    either = np.maximum((references | mask).sum(axis=(-1, -2)), 1)
    best = (both / either).mean(axis=-1).max(axis=-1)
    return {noun: float(score) for noun, score in zip(NOUNS, best, strict=True)}


def silhouette_rank(alpha: NDArray[np.float32], noun: str, seed: int = 77) -> tuple[int, float]:
    """Return (rank of `noun` among all nouns, 1 = its outline fits best; its IoU) for masks as in `silhouette_scores`."""
    scores = silhouette_scores(alpha, seed)
    return 1 + sum(score > scores[noun] for score in scores.values()), scores[noun]
