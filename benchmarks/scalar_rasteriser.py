"""The baseline of `rasteriser`: the same compositing, pixel by pixel over tile lists, in scalar numba loops.

It is what a first compiled version looks like, and a second opinion on pictures and gradients (see its test).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from renderers.gaussians import constants
from renderers.gaussians.projection import Projection

Floats = NDArray[np.float32]
Ints = NDArray[np.integer]

TILE = 16
MOMENTS = 8
"""Numbers stored for a tile entry before its features: sums of v, v dx, v dy, v dx^2, v dx dy, v dy^2, |du|, |dv|."""

ZERO, HALF, ONE, TWO = np.float32(0.0), np.float32(0.5), np.float32(1.0), np.float32(2.0)
ALPHA_MAX = np.float32(constants.ALPHA_MAX)
ALPHA_MIN = np.float32(constants.ALPHA_MIN)
TRANSMITTANCE_MIN = np.float32(constants.TRANSMITTANCE_MIN)
SIGMA_SLACK = np.float32(1e-3)
"""Added to the exponent at which alpha is ALPHA_MIN; beyond, a pixel needs no exponential to fail the alpha test."""
BOX_SLACK = np.float32(1e-3)
"""Pixels by which boxes are widened, so that rounding never cuts off a pixel that passes the alpha test."""
ROUNDING = np.float32(5e-7)
"""A few units in the last place of float32."""


class Lists(NamedTuple):
    """Depth-ordered lists: entries[offsets[i] : offsets[i + 1]], i = camera * tiles + tile, are a tile's Gaussians."""

    boxes: Ints
    offsets: Ints
    entries: Ints


def tile_lists(projection: Projection, width: int, height: int) -> Lists:
    """Return the tile lists of all cameras, each in order of depth (ties in order of index)."""
    cameras, count = projection.depths.shape
    tiles = -(-width // TILE) * -(-height // TILE)
    boxes, counts = np.empty((cameras, count, 4), np.int32), np.zeros((cameras, tiles), np.int64)
    fields = [field.detach().contiguous().numpy() for field in projection]
    means2d, _, conics, opacities, radii = fields
    for camera in range(cameras):
        views = (field[camera] for field in (means2d, conics, opacities, radii))
        measure(*views, width, height, boxes[camera], counts[camera])
    offsets = np.concatenate([[0], np.cumsum(counts)])
    entries, cursors = np.empty(offsets[-1], np.int32), offsets[:-1].copy().reshape(cameras, tiles)
    order = torch.argsort(projection.depths.detach(), dim=1, stable=True).numpy()
    for camera in range(cameras):
        fill(order[camera], boxes[camera], width, cursors[camera], entries)
    return Lists(boxes, offsets, entries)


@njit(cache=True, nogil=True)
def measure(
    means2d: Floats, conics: Floats, opacities: Floats, radii: Ints, width: int, height: int, boxes: Ints, counts: Ints
) -> None:
    """Fill one camera's boxes [N, 4] (x0, x1, y0, y1 of the pixels that can pass the alpha test) and counts [tiles]."""
    tiles_x = (width + TILE - 1) // TILE
    for g in range(means2d.shape[0]):
        boxes[g, 0] = boxes[g, 1] = boxes[g, 2] = boxes[g, 3] = 0
        if radii[g, 0] <= 0 or radii[g, 1] <= 0:
            continue
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        determinant = a * c - b * b
        reach_x, reach_y = np.float32(radii[g, 0]), np.float32(radii[g, 1])
        if determinant > ZERO:  # rounding can make it useless; the radii are then the (looser) bound
            level = max(TWO * math.log(opacities[g] / ALPHA_MIN), ZERO)
            slack = ROUNDING * a * c / determinant  # what the difference a c - b^2 lost, relative to itself
            reach_x = min(reach_x, math.sqrt(level * c / determinant) * (ONE + slack) + BOX_SLACK)
            reach_y = min(reach_y, math.sqrt(level * a / determinant) * (ONE + slack) + BOX_SLACK)
        u, v = means2d[g, 0] - HALF, means2d[g, 1] - HALF
        x0 = int(min(max(math.ceil(u - reach_x), ZERO), np.float32(width)))
        x1 = int(min(max(math.floor(u + reach_x) + ONE, ZERO), np.float32(width)))
        y0 = int(min(max(math.ceil(v - reach_y), ZERO), np.float32(height)))
        y1 = int(min(max(math.floor(v + reach_y) + ONE, ZERO), np.float32(height)))
        if x0 >= x1 or y0 >= y1:
            continue
        boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3] = x0, x1, y0, y1
        for tile_y in range(y0 // TILE, (y1 - 1) // TILE + 1):
            for tile_x in range(x0 // TILE, (x1 - 1) // TILE + 1):
                counts[tile_y * tiles_x + tile_x] += 1


@njit(cache=True, nogil=True)
def fill(order: Ints, boxes: Ints, width: int, cursors: Ints, entries: Ints) -> None:
    """Write Gaussian indices in `order` into each tile's stretch of entries; cursors [tiles] start at the stretches."""
    tiles_x = (width + TILE - 1) // TILE
    for i in range(order.shape[0]):
        g = order[i]
        x0, x1, y0, y1 = boxes[g, 0], boxes[g, 1], boxes[g, 2], boxes[g, 3]
        if x0 >= x1:
            continue
        for tile_y in range(y0 // TILE, (y1 - 1) // TILE + 1):
            for tile_x in range(x0 // TILE, (x1 - 1) // TILE + 1):
                tile = tile_y * tiles_x + tile_x
                entries[cursors[tile]] = g
                cursors[tile] += 1


@njit(cache=True, nogil=True, inline="always")
def clip_to_tile(boxes: Ints, g: int, tile: int, width: int, height: int) -> tuple[int, int, int, int]:
    """Return x0, x1, y0, y1 of a Gaussian's box inside a tile."""
    tiles_x = (width + TILE - 1) // TILE
    left, top = (tile % tiles_x) * TILE, (tile // tiles_x) * TILE
    x0, x1 = max(boxes[g, 0], left), min(boxes[g, 1], left + TILE)
    y0, y1 = max(boxes[g, 2], top), min(boxes[g, 3], top + TILE)
    return x0, x1, y0, y1


@njit(cache=True, nogil=True)
def forward(
    first: int,
    step: int,
    means2d: Floats,
    conics: Floats,
    opacities: Floats,
    features: Floats,
    boxes: Ints,
    offsets: Ints,
    entries: Ints,
    width: int,
    height: int,
    out: Floats,
    transmittance: Floats,
) -> None:
    """Composite every step-th (camera, tile) from `first`. out [C, H, W, D] starts at 0, transmittance [C, H, W] at 1.

    A finished pixel is marked by the sign of its transmittance.
    """
    tiles = ((width + TILE - 1) // TILE) * ((height + TILE - 1) // TILE)
    channels = features.shape[2]
    for item in range(first, means2d.shape[0] * tiles, step):
        camera, tile = item // tiles, item % tiles
        for e in range(offsets[item], offsets[item + 1]):
            g = entries[e]
            u, v = means2d[camera, g, 0], means2d[camera, g, 1]
            a, b, c = HALF * conics[camera, g, 0], conics[camera, g, 1], HALF * conics[camera, g, 2]
            opacity = opacities[camera, g]
            sigma_max = math.log(opacity / ALPHA_MIN) + SIGMA_SLACK
            x0, x1, y0, y1 = clip_to_tile(boxes[camera], g, tile, width, height)
            for y in range(y0, y1):
                dy = v - (np.float32(y) + HALF)
                for x in range(x0, x1):
                    before = transmittance[camera, y, x]
                    dx = u - (np.float32(x) + HALF)
                    sigma = a * dx * dx + c * dy * dy + b * dx * dy
                    if before < ZERO or sigma < ZERO or sigma > sigma_max:
                        continue
                    alpha = min(ALPHA_MAX, opacity * math.exp(-sigma))
                    if alpha < ALPHA_MIN:
                        continue
                    after = before * (ONE - alpha)
                    if after <= TRANSMITTANCE_MIN:
                        transmittance[camera, y, x] = -before
                        continue
                    weight = alpha * before
                    for k in range(channels):
                        out[camera, y, x, k] += weight * features[camera, g, k]
                    transmittance[camera, y, x] = after


@njit(cache=True, nogil=True)
def backward(
    first: int,
    step: int,
    means2d: Floats,
    conics: Floats,
    opacities: Floats,
    features: Floats,
    boxes: Ints,
    offsets: Ints,
    entries: Ints,
    width: int,
    height: int,
    grad_out: Floats,
    grad_alpha: Floats,
    remaining: Floats,
    transmittance: Floats,
    slots: Floats,
) -> None:
    """Sweep every step-th (camera, tile) front to back again and write each entry's sums into its own row of slots.

    grad_out [C, H, W, D], grad_alpha [C, H, W]; transmittance [C, H, W] starts at 1; remaining [C, H, W] starts at
    sum_k out_k grad_k + alpha grad_alpha, the loss carried by all Gaussians of a pixel, and ends at about 0. With w the
    weight, q = f . grad_out + grad_alpha and S what is left behind the Gaussian, v = dL/dsigma = alpha S / (1 - alpha)
    - w q. slots [entries, MOMENTS + D] starts at 0.
    """
    tiles = ((width + TILE - 1) // TILE) * ((height + TILE - 1) // TILE)
    channels = features.shape[2]
    for item in range(first, means2d.shape[0] * tiles, step):
        camera, tile = item // tiles, item % tiles
        for e in range(offsets[item], offsets[item + 1]):
            g = entries[e]
            u, v = means2d[camera, g, 0], means2d[camera, g, 1]
            a, b, c = HALF * conics[camera, g, 0], conics[camera, g, 1], HALF * conics[camera, g, 2]
            opacity = opacities[camera, g]
            sigma_max = math.log(opacity / ALPHA_MIN) + SIGMA_SLACK
            x0, x1, y0, y1 = clip_to_tile(boxes[camera], g, tile, width, height)
            s0 = sx = sy = sxx = sxy = syy = abs_u = abs_v = ZERO
            for y in range(y0, y1):
                dy = v - (np.float32(y) + HALF)
                for x in range(x0, x1):
                    before = transmittance[camera, y, x]
                    dx = u - (np.float32(x) + HALF)
                    sigma = a * dx * dx + c * dy * dy + b * dx * dy
                    if before < ZERO or sigma < ZERO or sigma > sigma_max:
                        continue
                    raw_alpha = opacity * math.exp(-sigma)
                    alpha = min(ALPHA_MAX, raw_alpha)
                    if alpha < ALPHA_MIN:
                        continue
                    after = before * (ONE - alpha)
                    if after <= TRANSMITTANCE_MIN:
                        transmittance[camera, y, x] = -before
                        continue
                    weight = alpha * before
                    q = grad_alpha[camera, y, x]
                    for k in range(channels):
                        gradient = grad_out[camera, y, x, k]
                        q += features[camera, g, k] * gradient
                        slots[e, MOMENTS + k] += weight * gradient
                    behind = remaining[camera, y, x] - weight * q
                    remaining[camera, y, x] = behind
                    transmittance[camera, y, x] = after
                    if raw_alpha > ALPHA_MAX:
                        continue
                    value = alpha * behind / (ONE - alpha) - weight * q
                    value_x, value_y = value * dx, value * dy
                    s0 += value
                    sx += value_x
                    sy += value_y
                    sxx += value_x * dx
                    sxy += value_x * dy
                    syy += value_y * dy
                    abs_u += abs(TWO * a * value_x + b * value_y)
                    abs_v += abs(b * value_x + TWO * c * value_y)
            slots[e, 0], slots[e, 1], slots[e, 2], slots[e, 3] = s0, sx, sy, sxx
            slots[e, 4], slots[e, 5], slots[e, 6], slots[e, 7] = sxy, syy, abs_u, abs_v
