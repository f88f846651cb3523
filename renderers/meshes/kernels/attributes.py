"""Vertex values at the pixels, and back."""

from __future__ import annotations

import numpy as np

from renderers.gaussians.kernels.compiling import kernel
from renderers.meshes.kernels.lines import at, centre, corner, cross


@kernel
def spread(job, first, step):
    """Write out [B, H W, K] float32, the weighted values of each pixel's face.

    job: fingerprint, values [1 or B, V, K] float32, faces [F, 3], face [B, H W], weights [B, H W, 3], out. Share `first` of
    `step` gets a stretch of all pixels.
    """
    _, values, faces, face, weights, out = job
    cameras, pixels, channels = out.shape
    for row in range(cameras * pixels * first // step, cameras * pixels * (first + 1) // step):
        camera, pixel = row // pixels, row % pixels
        f = face[camera, pixel]
        if f < 0:
            for channel in range(channels):
                out[camera, pixel, channel] = 0.0
            continue
        table = values[camera if values.shape[0] > 1 else 0]
        i0, i1, i2 = faces[f, 0], faces[f, 1], faces[f, 2]
        b0, b1, b2 = weights[camera, pixel, 0], weights[camera, pixel, 1], weights[camera, pixel, 2]
        for channel in range(channels):
            out[camera, pixel, channel] = b0 * table[i0, channel] + b1 * table[i1, channel] + b2 * table[i2, channel]
    return 0


@kernel
def weigh(job, first, step):
    """Write g_weights [B, H W, 3] float32, how much each pixel's weights matter.

    job: fingerprint, values, faces, face, g_out [B, H W, K] float32, g_weights. Shares as in `spread`.
    """
    _, values, faces, face, g_out, g_weights = job
    cameras, pixels, channels = g_out.shape
    for row in range(cameras * pixels * first // step, cameras * pixels * (first + 1) // step):
        camera, pixel = row // pixels, row % pixels
        f = face[camera, pixel]
        for k in range(3):
            total = 0.0
            if f >= 0:
                vertex = faces[f, k]
                table = values[camera if values.shape[0] > 1 else 0]
                for channel in range(channels):
                    total += g_out[camera, pixel, channel] * table[vertex, channel]
            g_weights[camera, pixel, k] = total
    return 0


@kernel
def gather(job, first, step):
    """Write corners [B, F, 3, K] float32, the gradients of the values of every step-th face from `first`.

    job: fingerprint, g_out [B, H W, K], weights [B, H W, 3], starts, order (see `gradient.sort_pixels`), corners.
    """
    _, g_out, weights, starts, order, corners = job
    cameras, count, channels = corners.shape[0], corners.shape[1], corners.shape[3]
    for camera in range(cameras):
        for f in range(first, count, step):
            begin, end = starts[camera, f], starts[camera, f + 1]
            if begin == end:
                continue
            for k in range(3):
                for channel in range(channels):
                    corners[camera, f, k, channel] = 0.0
            for place in range(begin, end):
                pixel = order[camera, place]
                for k in range(3):
                    weight = weights[camera, pixel, k]
                    for channel in range(channels):
                        corners[camera, f, k, channel] += weight * g_out[camera, pixel, channel]
    return 0


@kernel
def change(job, first, step):
    """Write out [B, H, W, 3, 2] float32, the change of the weights per pixel to the right and down: the compiled twin of
    `surface.pixel_derivatives`.

    job: fingerprint, clip [B, V, 4] float32, faces [F, 3], face [B, H, W], out. Share `first` of `step` gets a stretch of
    all rows.
    """
    _, clip, faces, face, out = job
    cameras, height, width = face.shape
    edges, slopes = np.empty(3), np.empty((2, 3))
    for row in range(cameras * height * first // step, cameras * height * (first + 1) // step):
        camera, i = row // height, row % height
        y = centre(i, height)
        for j in range(width):
            f = face[camera, i, j]
            if f < 0:
                out[camera, i, j] = 0.0
                continue
            x = centre(j, width)
            for k in range(3):
                after, beyond = faces[f, (k + 1) % 3], faces[f, (k + 2) % 3]
                line = cross(corner(clip, camera, after), corner(clip, camera, beyond))
                edges[k] = at(line, x, y)
                slopes[0, k], slopes[1, k] = line[0] * 2.0 / width, line[1] * 2.0 / height
            share = 1.0 / (edges[0] + edges[1] + edges[2])
            for axis in range(2):
                total = slopes[axis, 0] + slopes[axis, 1] + slopes[axis, 2]
                for k in range(3):
                    out[camera, i, j, k, axis] = (slopes[axis, k] - edges[k] * share * total) * share
    return 0
