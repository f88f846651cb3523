"""How much a moving asset moves, and how much of itself it keeps. Lengths are shares of the object's size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError

Values = NDArray[np.floating[Any]]
LEAST_ENERGY = 0.02
"""Motion energy above which an asset counts as moving: two hundredths of its radius, root mean square."""
MOST_DRIFT = 0.25
"""Identity drift below which it counts as the same thing."""
DENSER = 4
"""How many times as many moments as frames a path is sampled at to see whether it is smooth between them."""
MOST_PATH_JITTER = 0.5
"""Jitter of the densely sampled path below which it counts as smooth; corners at every frame (straight ways) give 0.85."""


def size_of(rest: Values) -> float:
    """Return the root mean square distance of the points [P, 3] from their centroid; never 0."""
    return float(max(np.sqrt(np.square(rest - rest.mean(axis=0)).sum(axis=1).mean()), 1e-12))


def motion_energy(points: Values) -> float:
    """Return the root mean square deviation of points [F, P, 3] from their own mean place over time, by size.

    0 for what stands still wherever it stands; a rigid translation by its size and back gives about 0.5.
    """
    _check(points)
    away = points - points.mean(axis=0)
    return float(np.sqrt(np.square(away).sum(axis=2).mean())) / size_of(points[0])


def identity_drift(points: Values, rest: Values, edges: NDArray[np.integer[Any]]) -> float:
    """Return the mean relative change of the lengths of edges [E, 2] against rest [P, 3], over frames [F, P, 3].

    0 for every rigid motion; edges shorter than a hundredth of the size do not count.
    """
    _check(points)
    before = np.linalg.norm(rest[edges[:, 0]] - rest[edges[:, 1]], axis=1)
    kept = before > 0.01 * size_of(rest)
    if not kept.any():
        return 0.0
    now = np.linalg.norm(points[:, edges[kept, 0]] - points[:, edges[kept, 1]], axis=2)
    return float(np.abs(now / before[kept] - 1.0).mean())


def jitter(points: Values) -> float:
    """Return the root mean square of second differences over frames, by that of first differences; 0 for steady motion.

    White noise gives about 1.7, a sine of k swings over F frames 2 sin(pi k / F): it tells how coarse frames are in time
    as much as how restless the path is. Sample the path densely (`DENSER`) to leave the frames out of it.
    """
    _check(points)
    first = np.diff(points, axis=0)
    return float(np.sqrt(np.square(np.diff(first, axis=0)).mean() / max(np.square(first).mean(), 1e-24)))


def pixels_moved(pixels: Values) -> float:
    """Return the median over points of how far they go from frame 0 at most; pixels [F, P, 2]."""
    return float(np.median(np.linalg.norm(pixels - pixels[:1], axis=2).max(axis=0)))


def nearest_edges(rest: Values, neighbours: int = 4) -> NDArray[np.int64]:
    """Return [E, 2], each point with its nearest others: what keeps the shape together."""
    from scipy.spatial import cKDTree

    count = min(neighbours + 1, len(rest))
    _, index = cKDTree(rest).query(rest, k=count)
    index = np.asarray(index).reshape(len(rest), -1)[:, 1:]
    return np.stack([np.repeat(np.arange(len(rest)), index.shape[1]), index.ravel()], axis=1)


def motion_report(points: Values, rest: Values, dense: Values | None = None) -> dict[str, Any]:
    """Return the numbers of metrics.json: energy, drift, jitter, and whether they are within their bounds.

    dense: the same points on the same path at `DENSER` times as many moments; None: their jitter is not told.
    """
    energy, drift = motion_energy(points), identity_drift(points, rest, nearest_edges(rest))
    restless = {} if dense is None else {"path_jitter": jitter(dense), "is_smooth": jitter(dense) < MOST_PATH_JITTER}
    return {
        "frames": len(points),
        "energy": energy,
        "identity_drift": drift,
        "jitter": jitter(points) if len(points) > 2 else 0.0,
        "moves": energy > LEAST_ENERGY,
        "keeps_identity": drift < MOST_DRIFT,
        **restless,
    }


def _check(points: Values) -> None:
    if points.ndim != 3 or points.shape[2] != 3 or len(points) < 2:
        raise ShapeError("points", "[frames >= 2, points, 3]", points.shape)
