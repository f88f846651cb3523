"""Walks over the surface from pixel to pixel, to the silhouette between them: the compiled twin of `silhouettes.find`."""

from __future__ import annotations

import numpy as np

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.meshes.kernels.lines import at, centre, corner, cross, dot


@kernel
def find(job, first, step):
    """Write the silhouette edge between each pixel and its right and lower neighbours.

    job: fingerprint, clip [B, V, 4] float32, faces [F, 3], beyond [F, 3] int64, face [B, H, W] int64, depth [B, H, W]
    float32, steps [1] int64, found [B, H, W, 2] int64 (the result: -1 for none, otherwise 2 (3 f + k) for edge k of face f,
    plus 1 if the neighbour is the nearer one). Share `first` of `step` gets a stretch of all rows.
    """
    _, clip, faces, beyond, face, depth, steps, found = job
    cameras, height, width = face.shape
    for row in range(cameras * height * first // step, cameras * height * (first + 1) // step):
        camera, i = row // height, row % height
        for j in range(width):
            here = face[camera, i, j]
            for direction in range(2):
                found[camera, i, j, direction] = -1
                down, right = i + direction, j + 1 - direction
                if down >= height or right >= width:
                    continue
                there = face[camera, down, right]
                if here == there:
                    continue
                is_here = there < 0 or (here >= 0 and depth[camera, i, j] <= depth[camera, down, right])
                x0, y0, x1, y1 = centre(j, width), centre(i, height), centre(right, width), centre(down, height)
                if is_here:
                    edge = walk(clip, faces, beyond, camera, here, there, x0, y0, x1, y1, steps[0])
                else:
                    edge = walk(clip, faces, beyond, camera, there, here, x1, y1, x0, y0, steps[0])
                if edge >= 0 and is_steep(clip, faces, camera, edge, height, width) == (direction == 0):
                    found[camera, i, j, direction] = 2 * edge + (0 if is_here else 1)
    return 0


@routine
def walk(clip, faces, beyond, camera, f, last, x0, y0, x1, y1, steps):
    """Return 3 f + k of the silhouette edge on the way from (x0, y0) on face f to (x1, y1), or -1."""
    for _ in range(steps):
        v0, v1 = corner(clip, camera, faces[f, 0]), corner(clip, camera, faces[f, 1])
        v2 = corner(clip, camera, faces[f, 2])
        l0, l1, l2 = cross(v1, v2), cross(v2, v0), cross(v0, v1)
        determinant = dot(v0, l0)
        sign = 1.0 if determinant > 0.0 else (-1.0 if determinant < 0.0 else 0.0)
        k, nearest = -1, np.inf
        for side, line in enumerate((l0, l1, l2)):
            end = sign * at(line, x1, y1)
            if end < 0.0:
                begin = sign * at(line, x0, y0)
                crossing = begin / (begin - end)
                if crossing < nearest:
                    k, nearest = side, crossing
        if k < 0:
            return -1
        following = beyond[f, k]
        if following < 0:
            return 3 * f + k
        a, b = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
        opposite = faces[following, 0]
        for other in range(3):  # by the way back, for vertices may be there twice
            vertex = faces[following, other]
            if beyond[following, other] == f and vertex != a and vertex != b:
                opposite = vertex
        line = cross(corner(clip, camera, a), corner(clip, camera, b))
        if dot(corner(clip, camera, faces[f, k]), line) * dot(corner(clip, camera, opposite), line) > 0.0:
            return 3 * f + k
        if following == last:
            return -1
        f = following
    return -1


@helper
def is_steep(clip, faces, camera, edge, height, width):
    """Return whether an edge is nearer to the vertical in the picture."""
    f, k = edge // 3, edge % 3
    line = cross(corner(clip, camera, faces[f, (k + 1) % 3]), corner(clip, camera, faces[f, (k + 2) % 3]))
    return abs(line[0]) * height >= abs(line[1]) * width
