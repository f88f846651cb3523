"""Inside or outside, decided as a viewer would: a point is inside if it is hidden from every side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.extinction import LINES, Array

OPAQUE = 0.7 * float(np.log(2.0))
"""Optical depth at which a line counts as blocked (alpha 0.38). Alpha 0.5 would be log 2; a little less gave the best
outlines for splats fitted to toybox objects, because of 26 directions the most transparent one decides."""
USUAL_SKIN = 0.07
"""Optical depth that may lie in front of the surface; best or near best for the same fitted splats."""
_SHARE = 0.15
"""Lines that are barely blocked would have no room between the skins of their two ends: a skin is at most this share
of the line's optical depth."""


def line_depths(extinction: Array, cell: float) -> Iterator[tuple[Array, Array]]:
    """Yield the optical depths before and after every node along the 13 `LINES` (axes, face and space diagonals).

    A node's own absorption counts half to each side. extinction: [X, Y, Z] >= 0 per world unit. cell: node spacing.
    """
    for direction in LINES:
        axis = direction.index(1)
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


def hidden(extinction: Array, cell: float, skin: float = USUAL_SKIN, opaque: float = OPAQUE) -> Array:
    """Return [X, Y, Z] float32 in [0, 2]: at least 1 where a node is hidden from all 26 directions, below 1 outside.

    A node is hidden along a line if the line as a whole blocks the view (optical depth >= `opaque`) and an optical
    depth of `skin` lies on either side of the node. In contrast to a level set of the density this fills hollow shells,
    cuts haze in front of a surface, and keeps faint parts beside dense ones.

    Args: extinction [X, Y, Z] per world unit; cell, spacing of the nodes; skin > 0; opaque > 0.
    """
    result = np.full(extinction.shape, 2.0, np.float32)
    for before, after in line_depths(extinction, cell):
        whole = before + after
        nearer = np.minimum(before, after)
        nearer /= np.clip(_SHARE * whole, 1e-9, skin)
        np.minimum(result, nearer, out=result)
        np.minimum(result, whole * np.float32(1.0 / opaque), out=result)
    return result


def faintest_line(extinction: Array, cell: float) -> float:
    """Return the largest optical depth that some node has along *all* lines through it.

    With a larger `opaque` than this nothing would be inside."""
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
