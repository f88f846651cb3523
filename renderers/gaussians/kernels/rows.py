"""Sixteen rows of a tensor at a time, also at its end, where fewer are left: those go through spare memory."""

from __future__ import annotations

from renderers.gaussians.kernels.compiling import helper, routine
from renderers.gaussians.kernels.memory import read_float, write_float
from renderers.gaussians.kernels.simd import LANES


@routine
def rows_at(base, block, width, rows, spare, fill):
    """Return where sixteen rows of `width` floats can be read; the last, shorter block is copied and filled up."""
    at = base + block * LANES * width * 4
    if rows == LANES:
        return at
    for i in range(rows * width):
        write_float(spare + 4 * i, read_float(at + 4 * i))
    for i in range(rows * width, LANES * width):
        write_float(spare + 4 * i, fill)
    return spare


@helper
def optional_rows(base, camera, block, width, rows, count, spare):
    """Return where to read a camera's sixteen gradient rows, or 0 if there is no such gradient."""
    if base == 0:
        return base
    return rows_at(base + camera * count * width * 4, block, width, rows, spare, 0.0)


@helper
def out_at(base, block, width, rows, spare):
    """Return where sixteen rows may be written."""
    return base + block * LANES * width * 4 if rows == LANES else spare


@routine
def put_rows(base, block, width, rows, spare):
    """Copy the rows of a last, shorter block from the spare memory to their place."""
    if rows != LANES:
        at = base + block * LANES * width * 4
        for i in range(rows * width):
            write_float(at + 4 * i, read_float(spare + 4 * i))
