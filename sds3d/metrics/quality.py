"""T3Bench's quality score: how good is the best side of the object, if its neighbours count too?

From every corner of an icosphere the object is drawn with five lenses; a scorer rates each picture against the prompt.
A corner keeps its best lens; then its rating is averaged with its neighbours', three times, so that one lucky view counts
little; the best corner is the score.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from sds3d.cameras import Cameras, orbit
from sds3d.errors import ShapeError

RADIUS = 2.2
FOVS_DEG = (60.0, 45.0, 36.0, 30.0, 24.0)
"""Vertical fields of view: pi / 3, 4, 5, 6 and 7.5."""
ROUNDS = 3
SUBDIVISIONS = 2
"""Of the icosahedron: 162 corners."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The score of one object, with the direction it was found in.

    Args:
        score: best smoothed rating, in the scorer's unit.
        mean, worst: mean of the smoothed ratings, and the smallest.
        azimuth_deg, elevation_deg: where the best corner is.
    """

    score: float
    mean: float
    worst: float
    azimuth_deg: float
    elevation_deg: float


@functools.cache
def sphere(subdivisions: int = SUBDIVISIONS) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners [N, 3] of a unit icosphere, and the matrix [N, N] that averages each with its neighbours."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions)
    corners = np.asarray(ball.vertices, np.float64)
    near = np.eye(len(corners))
    first, second = np.asarray(ball.edges).T
    near[first, second] = near[second, first] = 1.0
    return corners, near / near.sum(axis=1, keepdims=True)


def quality_cameras(size: int, subdivisions: int = SUBDIVISIONS, fovs_deg: tuple[float, ...] = FOVS_DEG) -> Cameras:
    """Return the cameras of the protocol, [N * fields of view], the lenses of a corner beside each other."""
    corners, _ = sphere(subdivisions)
    azimuth = torch.rad2deg(torch.atan2(*(torch.tensor(corners[:, k], dtype=torch.float32) for k in (1, 0))))
    elevation = torch.rad2deg(torch.asin(torch.tensor(corners[:, 2], dtype=torch.float32).clamp(-1.0, 1.0)))
    azimuth, elevation = (angle.repeat_interleave(len(fovs_deg)) for angle in (azimuth, elevation))
    cameras = orbit(azimuth, elevation, torch.full_like(azimuth, RADIUS), fovs_deg[0], size, size)
    focal = [0.5 * size / math.tan(0.5 * math.radians(fov)) for fov in fovs_deg]
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, 0, 0] = intrinsics[:, 1, 1] = torch.tensor(focal).repeat(len(corners))
    return replace(cameras, intrinsics=intrinsics)


def quality(ratings: NDArray[np.floating], subdivisions: int = SUBDIVISIONS, rounds: int = ROUNDS) -> Quality:
    """Return the quality of an object from its ratings [N, fields of view], in the order of `quality_cameras`.

    Raises: ShapeError for another number of corners.
    Source: He et al. 2023 (T3Bench), section 3.2, and run_eval_quality.py of its authors' repository.
    Deviations: the asset is drawn where it is, not moved to the mean of its vertices and scaled to the unit cube; the
        authors' 20 x + 50, which maps ImageReward to about 0 to 100, is `Scorer.points` and left to the caller.
    """
    corners, average = sphere(subdivisions)
    if ratings.ndim != 2 or len(ratings) != len(corners) or ratings.shape[1] == 0:
        raise ShapeError("ratings", f"[{len(corners)}, fields of view]", ratings.shape)
    smooth = np.asarray(ratings, np.float64).max(axis=1)
    for _ in range(rounds):
        smooth = average @ smooth
    best = int(np.argmax(smooth))
    x, y, z = corners[best]
    return Quality(
        score=float(smooth[best]),
        mean=float(smooth.mean()),
        worst=float(smooth.min()),
        azimuth_deg=math.degrees(math.atan2(y, x)),
        elevation_deg=math.degrees(math.asin(max(-1.0, min(1.0, z)))),
    )
