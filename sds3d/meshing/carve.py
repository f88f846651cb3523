"""Inside or outside, decided as a viewer would: a point is inside if it is hidden from every side."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.extinction import Array

MEDIAN_DEPTH = float(np.log(2.0))
"""Optical depth at which half of the light is gone: a splat renderer's alpha is then 0.5."""
_SKIN = 0.15
"""Rays that are barely opaque would have their surface in the middle, seen from both ends; it lies where this share of
the ray's optical depth has passed, if that is nearer."""


def line_depths(extinction: Array, cell: float) -> Iterator[tuple[Array, Array]]:
    """Yield the optical depths before and after every node along 13 lines (both ways: 26 directions).

    The lines are those to the 26 neighbours of a node: axes, face diagonals, space diagonals. A node's own absorption
    counts half to each side. extinction: [X, Y, Z] >= 0 per world unit. cell: spacing of the nodes.
    """
    for direction in product((-1, 0, 1), repeat=3):
        if direction <= (0, 0, 0):
            continue  # the opposite direction is the same line
        axis = direction.index(1)  # the first component that is not 0, because the direction is > (0, 0, 0)
        others = [direction[a] for a in range(3) if a != axis]
        step = np.float32(cell * np.sqrt(sum(abs(d) for d in direction)))
        slices = np.ascontiguousarray(np.moveaxis(extinction, axis, 0)) * step
        before = _sweep(slices, others)
        after = _sweep(slices[::-1], [-d for d in others])[::-1]
        yield np.moveaxis(before, 0, axis), np.moveaxis(after, 0, axis)


def _sweep(slices: Array, shift: list[int]) -> Array:
    """Return the optical depth in front of each node when every next slice is entered `shift` nodes further."""
    depth = np.empty_like(slices)
    total = np.zeros_like(slices[0])
    (to_row, from_row), (to_column, from_column) = (_overlap(d) for d in shift)
    for k, own in enumerate(slices):
        depth[k] = total + 0.5 * own
        passed = total + own
        total = np.zeros_like(passed)
        total[to_row, to_column] = passed[from_row, from_column]
    return depth


def _overlap(shift: int) -> tuple[slice, slice]:
    """Return (where a shifted row lands, where it comes from)."""
    if shift > 0:
        return slice(1, None), slice(None, -1)
    return (slice(None, -1), slice(1, None)) if shift < 0 else (slice(None), slice(None))


def hidden(extinction: Array, cell: float, level: float = MEDIAN_DEPTH) -> Array:
    """Return [X, Y, Z] float32 in [0, 2]: at least 1 where a node is hidden from all 26 directions, below 1 outside.

    A node is hidden along a line if the line as a whole has optical depth `level` (it is visible as something), and that
    depth, or a fixed share of the line's depth if that is less, lies on either side of the node. In contrast to a level
    set of the density this fills hollow shells, cuts haze in front of a surface, and keeps faint parts beside dense ones.

    Args: extinction [X, Y, Z] per world unit; cell, spacing of the nodes; level > 0, the optical depth that counts as
    visible (the default is alpha 0.5).
    """
    result = np.full(extinction.shape, 2.0, np.float32)
    for before, after in line_depths(extinction, cell):
        whole = before + after
        skin = np.minimum(level, _SKIN * whole)
        nearer = np.minimum(before, after) / np.maximum(skin, 1e-9)
        np.minimum(result, np.minimum(nearer, whole / level), out=result)
    return result


def faintest_line(extinction: Array, cell: float) -> float:
    """Return the largest optical depth that some node has along *all* lines through it: the highest useful level."""
    result = np.full(extinction.shape, np.inf, np.float32)
    for before, after in line_depths(extinction, cell):
        np.minimum(result, before + after, out=result)
    return float(result.max())


def clean(field: Array, keep_share: float = 0.02) -> tuple[Array, int]:
    """Return `field` with enclosed cavities filled and small separate pieces removed, and the count of pieces kept.

    A piece is kept if it has at least `keep_share` of the nodes of the largest one. Nodes with field >= 1 are inside.
    """
    from scipy import ndimage

    inside = field >= 1.0
    labels, count = ndimage.label(inside, structure=np.ones((3, 3, 3)))
    if count == 0:
        return field, 0
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    keep = sizes >= max(keep_share * sizes.max(), 1.0)
    cleaned = np.where(inside & ~keep[labels], np.float32(0.0), field)
    filled = ndimage.binary_fill_holes(cleaned >= 1.0)
    cleaned = np.where(filled & (cleaned < 1.0), np.float32(2.0), cleaned)
    return cleaned, int(keep.sum())


def cells_inside(field: Array) -> NDArray[np.int64]:
    """Return [M, 3] indices of the nodes that are inside."""
    return np.argwhere(field >= 1.0)
