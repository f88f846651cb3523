"""The kernel of baking: which face, and which point of it, belongs to every texel."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def closest_weights(px, py, corners):  # type: ignore[no-untyped-def]
    """Return (w0, w1, w2, distance): the point of a triangle [3, 2] that is nearest to (px, py); distance 0 inside."""
    ax, ay = corners[0, 0], corners[0, 1]
    bx, by = corners[1, 0], corners[1, 1]
    cx, cy = corners[2, 0], corners[2, 1]
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    if abs(area) > 1e-12:
        w1 = ((px - ax) * (cy - ay) - (cx - ax) * (py - ay)) / area
        w2 = ((bx - ax) * (py - ay) - (px - ax) * (by - ay)) / area
        w0 = 1.0 - w1 - w2
        if w0 >= 0.0 and w1 >= 0.0 and w2 >= 0.0:
            return w0, w1, w2, 0.0
    best, edge, share = 1e30, 0, 0.0
    for k in range(3):
        sx, sy = corners[k, 0], corners[k, 1]
        ex, ey = corners[(k + 1) % 3, 0] - sx, corners[(k + 1) % 3, 1] - sy
        length = ex * ex + ey * ey
        t = 0.0
        if length > 0.0:
            t = min(1.0, max(0.0, ((px - sx) * ex + (py - sy) * ey) / length))
        dx, dy = px - sx - t * ex, py - sy - t * ey
        if dx * dx + dy * dy < best:
            best, edge, share = dx * dx + dy * dy, k, t
    weights = np.zeros(3)
    weights[edge] = 1.0 - share
    weights[(edge + 1) % 3] = share
    return weights[0], weights[1], weights[2], np.sqrt(best)


@numba.njit(cache=True, nogil=True)
def assign(corners, size, reach):  # type: ignore[no-untyped-def]
    """Return per texel [size, size] the nearest face (-1: none within `reach`), two weights, the distance, and owners.

    corners: [F, 3, 2] float64 in texels, x to the right and y down, texel (row r, column c) centred at (c + 0.5, r + 0.5).
    owners counts the faces that hold the centre well inside (all weights above 1e-4): 2 or more is an overlap.
    """
    face = np.full((size, size), -1, np.int32)
    weight = np.zeros((size, size, 2), np.float32)
    nearest = np.full((size, size), np.float32(1e30), np.float32)
    owners = np.zeros((size, size), np.uint8)
    for f in range(corners.shape[0]):
        first, second = corners[f, 1] - corners[f, 0], corners[f, 2] - corners[f, 0]
        if abs(first[0] * second[1] - first[1] * second[0]) < 1e-9:
            continue  # a face without extent in the picture shows one point of another one
        x0 = max(0, int(np.floor(corners[f, :, 0].min() - reach)))
        x1 = min(size - 1, int(np.ceil(corners[f, :, 0].max() + reach)))
        y0 = max(0, int(np.floor(corners[f, :, 1].min() - reach)))
        y1 = min(size - 1, int(np.ceil(corners[f, :, 1].max() + reach)))
        for row in range(y0, y1 + 1):
            for column in range(x0, x1 + 1):
                w0, w1, w2, distance = closest_weights(column + 0.5, row + 0.5, corners[f])
                if w0 > 1e-4 and w1 > 1e-4 and w2 > 1e-4 and owners[row, column] < 255:
                    owners[row, column] += 1
                if distance < nearest[row, column] and distance <= reach:
                    nearest[row, column] = distance
                    face[row, column] = f
                    weight[row, column, 0] = w0
                    weight[row, column, 1] = w1
    return face, weight, nearest, owners
