"""Edge functions of a face in clip space, in double precision and in the very order of operations of the reference."""

from __future__ import annotations

import numpy as np

from renderers.gaussians.kernels.compiling import helper


@helper
def cross(a, b):
    """Return a x b of two (x, y, w); exactly the negative of b x a, so that faces agree about their common edge."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@helper
def dot(a, b):
    """Return a . b."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def at(line, x, y):
    """Return line . (x, y, 1)."""
    return line[0] * x + (line[1] * y + line[2])


@helper
def corner(clip, camera, vertex):
    """Return (x, y, w) of a vertex as doubles."""
    row = clip[camera, vertex]
    return np.float64(row[0]), np.float64(row[1]), np.float64(row[3])


@helper
def centre(pixel, size):
    """Return the clip coordinate x / w (or y / w) of a pixel's centre."""
    return (2.0 * pixel + 1.0) / size - 1.0
