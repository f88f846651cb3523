"""Does the object have one front? Measures of the Janus problem: a second face where the back should be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError
from sds3d.metrics.images import ssim

FRONT_DEG, NEAR_DEG = 45.0, 45.0
"""Up to where a view is a front view, and how far off a told azimuth may be."""


def front_faces(told_deg: NDArray[np.floating], true_deg: NDArray[np.floating]) -> dict[str, float | None]:
    """Return how well a judge tells where it stands, from azimuths [B] in degrees (0: it sees the front).

    Returns azimuth_within_45, the share told within 45 degrees; false_fronts, the share of views from behind (beyond
        90 degrees) that were taken for a front view, the mark of Janus; front_seen, the share of views from the front
        taken for one. None where there is no such view. Raises: ShapeError.
    """
    if told_deg.shape != true_deg.shape or told_deg.ndim != 1:
        raise ShapeError("told_deg", f"[B] = {list(true_deg.shape)} (as true_deg)", told_deg.shape)
    said_front = _turn(told_deg) < FRONT_DEG
    is_front, is_behind = _turn(true_deg) < FRONT_DEG, _turn(true_deg) > 90.0
    return {
        "azimuth_within_45": _share(_turn(told_deg - true_deg) <= NEAR_DEG),
        "false_fronts": _share(said_front[is_behind]),
        "front_seen": _share(said_front[is_front]),
    }


def opposite_likeness(images: NDArray[np.floating]) -> float:
    """Return the mean SSIM between each view and the one from the opposite side, in [-1, 1].

    images: [B, H, W, 3] in [0, 1], B even views evenly around the object. A Janus object looks the same from behind: near 1.
    It needs no judge. Limits: so does everything round or mirrored front to back (a ball, a table); compare runs of one
    prompt. Raises: ShapeError for an odd number of views.
    """
    if len(images) % 2 or len(images) == 0:
        raise ShapeError("images", "[B, H, W, 3] with an even number of views", images.shape)
    half = len(images) // 2
    return float(ssim(images[:half], images[half:]).mean())


def _turn(angle_deg: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return angles as a turn from 0, in [0, 180] degrees."""
    turn: NDArray[np.float64] = np.abs((np.asarray(angle_deg, np.float64) + 180.0) % 360.0 - 180.0)
    return turn


def _share(flags: NDArray[np.bool_]) -> float | None:
    return float(flags.mean()) if len(flags) else None
