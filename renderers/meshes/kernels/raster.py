"""The z-buffer: every face, row by row, over the pixels between its edges."""

from __future__ import annotations

import math

import numpy as np

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.meshes.kernels.lines import at, centre, corner, cross, dot


@kernel
def draw(job, first, step):
    """Fill the rows of all pictures that fall to share `first` of `step`: face, weights, depth.

    job: fingerprint, clip [B, V, 4] float32, faces [F, 3] int64, places [B, V, 2] float64 (see `bounds`), face [B, H, W]
    int64, weights [B, H, W, 3] float32, depth [B, H, W] float32, buffer [B, H, W] float64.
    """
    _, clip, faces, places, face, weights, depth, buffer = job
    cameras, height = face.shape[0], face.shape[1]
    begin, end = cameras * height * first // step, cameras * height * (first + 1) // step
    for camera in range(begin // height, (end + height - 1) // height):
        low, high = max(0, begin - camera * height), min(height, end - camera * height)
        for i in range(low, high):
            face[camera, i, :] = -1
            buffer[camera, i, :] = np.inf
        for f in range(faces.shape[0]):
            draw_face(clip, faces, places, face, buffer, camera, f, low, high)
        for i in range(low, high):
            resolve_row(clip, faces, face, weights, depth, buffer, camera, i)
    return 0


@kernel
def bounds(job, first, step):
    """Write where each vertex is projected, in pixels from the first pixel's centre; NaN for one that is not in front.

    job: fingerprint, clip [B, V, 4] float32, places [B, V, 2] float64 (x, y), size [2] int64 (height, width).
    """
    _, clip, places, size = job
    for camera in range(clip.shape[0]):
        for v in range(first, clip.shape[1], step):
            w = np.float64(clip[camera, v, 3])
            x, y = np.nan, np.nan
            if w > 0.0:
                x = (np.float64(clip[camera, v, 0]) / w + 1.0) * 0.5 * size[1] - 0.5
                y = (np.float64(clip[camera, v, 1]) / w + 1.0) * 0.5 * size[0] - 0.5
            places[camera, v, 0], places[camera, v, 1] = x, y
    return 0


@helper
def draw_face(clip, faces, places, face, buffer, camera, f, low, high):
    """Draw one face into rows low to high - 1 of one picture."""
    i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
    height, width = face.shape[1], face.shape[2]
    top, bottom, left, right = low, high - 1, 0, width - 1
    y0, y1, y2 = places[camera, i0, 1], places[camera, i1, 1], places[camera, i2, 1]
    is_in_front = not math.isnan(y0 + y1 + y2)
    if is_in_front:
        # Some slack: the bounds are rounded, membership is decided by the edge functions alone.
        above, below = min(y0, y1, y2) - 0.001, max(y0, y1, y2) + 0.001
        if below < low or above > high - 1:
            return
        x0, x1, x2 = places[camera, i0, 0], places[camera, i1, 0], places[camera, i2, 0]
        before, behind = min(x0, x1, x2) - 0.001, max(x0, x1, x2) + 0.001
        if behind < 0 or before > width - 1:
            return
        top, bottom = max(low, math.ceil(max(above, 0.0))), min(high - 1, math.floor(min(below, height)))
        left, right = math.ceil(max(before, 0.0)), math.floor(min(behind, width - 1.0))
        if top > bottom or left > right:
            return
    elif math.isnan(y0) and math.isnan(y1) and math.isnan(y2):
        return
    draw_rows(clip, faces, face, buffer, camera, f, top, bottom, left, right)


@routine
def draw_rows(clip, faces, face, buffer, camera, f, top, bottom, left, right):
    """Draw one face into a box of pixels."""
    height, width = face.shape[1], face.shape[2]
    i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
    v0, v1, v2 = corner(clip, camera, i0), corner(clip, camera, i1), corner(clip, camera, i2)
    l0, l1, l2 = cross(v1, v2), cross(v2, v0), cross(v0, v1)
    determinant = dot(v0, l0)
    if determinant == 0.0:
        return
    z0, z1, z2 = np.float64(clip[camera, i0, 2]), np.float64(clip[camera, i1, 2]), np.float64(clip[camera, i2, 2])
    plane = (
        (l0[0] * z0 + l1[0] * z1 + l2[0] * z2) / determinant,
        (l0[1] * z0 + l1[1] * z1 + l2[1] * z2) / determinant,
        (l0[2] * z0 + l1[2] * z1 + l2[2] * z2) / determinant,
    )
    sign = 1.0 if determinant > 0.0 else -1.0
    l0, l1, l2 = signed(l0, sign), signed(l1, sign), signed(l2, sign)
    owns0, owns1, owns2 = owns_edge(l0), owns_edge(l1), owns_edge(l2)
    half = 0.5 * width
    for i in range(top, bottom + 1):
        y = centre(i, height)
        begin, end = row_span(l0, y, half, left, right)
        begin, end = row_span(l1, y, half, begin, end)
        begin, end = row_span(l2, y, half, begin, end)
        for j in range(begin, end + 1):
            x = centre(j, width)
            e0, e1, e2 = at(l0, x, y), at(l1, x, y), at(l2, x, y)
            if e0 < 0.0 or e1 < 0.0 or e2 < 0.0:
                continue
            if (e0 == 0.0 and not owns0) or (e1 == 0.0 and not owns1) or (e2 == 0.0 and not owns2):
                continue
            z = at(plane, x, y)
            if z < buffer[camera, i, j] and z >= -1.0 and z <= 1.0:
                buffer[camera, i, j] = z
                face[camera, i, j] = f


@helper
def signed(line, sign):
    """Return the line with its inside where it is positive."""
    return sign * line[0], sign * line[1], sign * line[2]


@helper
def owns_edge(line):
    """Return whether pixels on this edge belong to the face: a left edge, or a top one (the top-left rule)."""
    return line[0] > 0.0 or (line[0] == 0.0 and line[1] > 0.0)


@helper
def row_span(line, y, half, begin, end):
    """Return the columns from begin to end where the edge function may be >= 0 in a row, with a pixel of slack."""
    level = line[1] * y + line[2]
    if line[0] == 0.0:
        return (begin, end) if level >= 0.0 else (begin, begin - 1)
    column = (1.0 - level / line[0]) * half - 0.5
    if line[0] > 0.0:
        if column > end + 1.0:
            return begin, begin - 1
        return (begin if column < begin else max(begin, int(column))), end
    if column < begin - 1.0:
        return begin, begin - 1
    return begin, (end if column > end else min(end, int(column) + 1))


@routine
def resolve_row(clip, faces, face, weights, depth, buffer, camera, i):
    """Write the weights and depth of one row's faces; they follow from the face alone."""
    height, width = face.shape[1], face.shape[2]
    y = centre(i, height)
    for j in range(width):
        f = face[camera, i, j]
        if f < 0:
            weights[camera, i, j, 0] = weights[camera, i, j, 1] = weights[camera, i, j, 2] = 0.0
            depth[camera, i, j] = 1.0
            continue
        x = centre(j, width)
        v0, v1 = corner(clip, camera, faces[f, 0]), corner(clip, camera, faces[f, 1])
        v2 = corner(clip, camera, faces[f, 2])
        e0, e1, e2 = at(cross(v1, v2), x, y), at(cross(v2, v0), x, y), at(cross(v0, v1), x, y)
        share = 1.0 / (e0 + e1 + e2)
        weights[camera, i, j, 0], weights[camera, i, j, 1] = e0 * share, e1 * share
        weights[camera, i, j, 2] = e2 * share
        depth[camera, i, j] = buffer[camera, i, j]
