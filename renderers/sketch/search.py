"""Which pixels does which piece of which stroke touch? Compiled, without gradients.

Everything numba compiles is in this file, because its cache looks at the time stamp of the kernel's own file only.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def search(xy: Any, radius: Any, is_drawn: Any, height: int, width: int, reach: float, shortest: float) -> Any:
    """Return int32 arrays (stroke, pixel, piece), one entry a pair of a stroke and a pixel it reaches.

    Args:
        xy: [N, P, 2] pixels. radius: [N, P]. is_drawn: [N, P - 1]. reach: pixels beyond the radius that count.
        shortest: squared length below which a piece is treated as that long, as `coverage.closest` does.
    The piece of a pair is the one with the smallest distance minus radius. Pixel = row * width + column.
    """
    strokes, places = xy.shape[0], xy.shape[1]
    best = np.full(height * width, np.inf)
    nearest = np.zeros(height * width, np.int32)
    capacity, count = 1024 + 512 * strokes, 0
    out_stroke, out_pixel, out_piece = (
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
        np.empty(capacity, np.int32),
    )
    for n in range(strokes):
        top, bottom, left, right = height, -1, width, -1
        for j in range(places - 1):
            if not is_drawn[n, j]:
                continue
            ax, ay, bx, by = xy[n, j, 0], xy[n, j, 1], xy[n, j + 1, 0], xy[n, j + 1, 1]
            ra, rb = radius[n, j], radius[n, j + 1]
            grown = max(ra, rb) + reach
            # Comparisons before conversion: a place far outside does not fit into an integer.
            low_x, high_x = max(min(ax, bx) - grown, 0.0), min(max(ax, bx) + grown, width - 0.5)
            low_y, high_y = max(min(ay, by) - grown, 0.0), min(max(ay, by) + grown, height - 0.5)
            if not (low_x <= high_x and low_y <= high_y):
                continue
            x0, x1, y0, y1 = int(low_x), int(high_x), int(low_y), int(high_y)
            left, right, top, bottom = min(left, x0), max(right, x1), min(top, y0), max(bottom, y1)
            dx, dy = bx - ax, by - ay
            scale = 1.0 / max(dx * dx + dy * dy, shortest)
            for row in range(y0, y1 + 1):
                py = row + 0.5 - ay
                for column in range(x0, x1 + 1):
                    px = column + 0.5 - ax
                    u = min(max((px * dx + py * dy) * scale, 0.0), 1.0)
                    ex, ey = px - u * dx, py - u * dy
                    gap = math.sqrt(ex * ex + ey * ey) - (ra + u * (rb - ra))
                    if gap < reach and gap < best[row * width + column]:
                        best[row * width + column] = gap
                        nearest[row * width + column] = j
        for row in range(top, bottom + 1):
            for pixel in range(row * width + left, row * width + right + 1):
                if best[pixel] < np.inf:
                    if count == capacity:
                        capacity *= 2
                        out_stroke, out_pixel, out_piece = (
                            _longer(out_stroke, capacity),
                            _longer(out_pixel, capacity),
                            _longer(out_piece, capacity),
                        )
                    out_stroke[count], out_pixel[count], out_piece[count] = n, pixel, nearest[pixel]
                    count += 1
                    best[pixel] = np.inf
    return out_stroke[:count], out_pixel[:count], out_piece[:count]


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _longer(values: Any, capacity: int) -> Any:
    result = np.empty(capacity, values.dtype)
    result[: len(values)] = values
    return result


@njit(cache=True, nogil=True, error_model="numpy")  # type: ignore[untyped-decorator]
def front_to_back(pixel: Any, depth: Any, pixels: int) -> Any:
    """Return the int64 order of pairs by pixel [K] (below `pixels`), and within a pixel by depth [K], stable."""
    start = np.zeros(pixels + 1, np.int64)
    for k in range(len(pixel)):
        start[pixel[k] + 1] += 1
    for p in range(pixels):
        start[p + 1] += start[p]
    order, filled = np.empty(len(pixel), np.int64), start[:-1].copy()
    for k in range(len(pixel)):
        first, at = start[pixel[k]], filled[pixel[k]]
        filled[pixel[k]] += 1
        while at > first and depth[order[at - 1]] > depth[k]:  # few strokes share a pixel
            order[at] = order[at - 1]
            at -= 1
        order[at] = k
    return order
