"""How well points are followed through a clip: errors of tracks in pixels, and the measures of TAP-Vid."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError

Values = NDArray[np.floating[Any]]
Flags = NDArray[np.bool_]
THRESHOLDS = (1.0, 2.0, 4.0, 8.0, 16.0)
"""Pixels of a picture of 256 x 256. Source: TAP-Vid (Doersch et al., 2022)."""


def end_point_error(found: Values, true: Values, visible: Flags) -> dict[str, float]:
    """Return {"mean", "median"}, the distance in pixels between tracks [P, F, 2] where the true one is `visible` [P, F].

    NaN if nothing is visible.
    """
    _check(found, true, visible)
    errors = np.linalg.norm(found - true, axis=2)[visible]
    empty = float("nan")
    return {
        "mean": float(errors.mean()) if errors.size else empty,
        "median": float(np.median(errors)) if errors.size else empty,
    }


def share_within(found: Values, true: Values, visible: Flags, reach: float) -> float:
    """Return the share of visible places that are found within `reach` pixels (PCK); NaN if nothing is visible."""
    _check(found, true, visible)
    near = np.linalg.norm(found - true, axis=2) < reach
    return float(near[visible].mean()) if visible.any() else float("nan")


def tap_measures(found: Values, said: Flags, true: Values, visible: Flags) -> dict[str, float]:
    """Return TAP-Vid's measures of tracks [P, F, 2] in a picture of 256 x 256, all in [0, 1].

    Args: found, said: places, and whether the tracker says that they are visible, [P, F]. true, visible: the truth.
    delta_avg: share of visible places within the thresholds, mean over these. occlusion_accuracy: share of right flags.
    average_jaccard: right / (right + said but wrong + visible but missed), mean over the thresholds; right means visible,
    said to be, and within the threshold. Frames of queries are to be left out by the caller.
    """
    _check(found, true, visible)
    _check(found, true, said)
    errors = np.linalg.norm(found - true, axis=2)
    jaccard = []
    for threshold in THRESHOLDS:
        right = (errors < threshold) & visible & said
        wrong = said & ~right
        jaccard.append(right.sum() / max(visible.sum() + wrong.sum(), 1))
    return {
        "delta_avg": float(np.mean([share_within(found, true, visible, reach) for reach in THRESHOLDS])),
        "occlusion_accuracy": float((said == visible).mean()),
        "average_jaccard": float(np.mean(jaccard)),
    }


def _check(found: Values, true: Values, flags: Flags) -> None:
    if found.ndim != 3 or found.shape[2] != 2 or true.shape != found.shape:
        raise ShapeError("tracks", f"[points, frames, 2], both alike (the truth is {true.shape})", found.shape)
    if flags.shape != found.shape[:2]:
        raise ShapeError("visible", f"{list(found.shape[:2])}", flags.shape)
