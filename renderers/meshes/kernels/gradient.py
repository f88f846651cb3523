"""From gradients of weights and depth at the pixels to gradients of clip coordinates, in an order that no thread changes.

With e_k = p . (v_k+1 x v_k+2), S = sum e, b_k = e_k / S, depth = sum b z / sum b w, and upstream gradients h_k of b_k
(depth's included), the gradient of e_k is (h_k - sum h b) / S. Since p enters e_k linearly, a face only needs the sums G_k
over its pixels of that times p: v_k+1 receives v_k+2 x G_k, and v_k+2 receives G_k x v_k+1.
"""

from __future__ import annotations

import numpy as np

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.meshes.kernels.lines import at, centre, corner, cross

SUMS = 15
"""Numbers a face collects: G_0, G_1, G_2 (three each), then the gradients of z and w that do not pass through b."""


@kernel
def sort_pixels(job, first, step):
    """Order the pixels of every step-th picture from `first` by face.

    job: fingerprint, face [B, H W] int64, starts [B, F + 1] int64 (first pixel of each face in `order`), order [B, H W]
    int32.
    """
    _, face, starts, order = job
    for camera in range(first, face.shape[0], step):
        begin = starts[camera]
        begin[:] = 0
        for pixel in range(face.shape[1]):
            f = face[camera, pixel]
            if f >= 0:
                begin[f + 1] += 1
        for f in range(begin.shape[0] - 1):
            begin[f + 1] += begin[f]
        for pixel in range(face.shape[1]):
            f = face[camera, pixel]
            if f >= 0:
                order[camera, begin[f]] = pixel
                begin[f] += 1
        for f in range(begin.shape[0] - 1, 0, -1):  # each start has moved to the next one
            begin[f] = begin[f - 1]
        begin[0] = 0
    return 0


@kernel
def add_faces(job, first, step):
    """Write the gradients of the corners of every step-th face from `first`, in all cameras.

    job: fingerprint, clip [B, V, 4], faces [F, 3], weights [B, H W, 3], depth [B, H W], g_weights [B, H W, 3],
    g_depth [B, H W], starts, order, size [2] int64 (height, width), corners [B, F, 3, 4] float32 (the result).
    """
    _, clip, faces, weights, depth, g_weights, g_depth, starts, order, size, corners = job
    sums = np.empty(SUMS)
    for camera in range(clip.shape[0]):
        for f in range(first, faces.shape[0], step):
            begin, end = starts[camera, f], starts[camera, f + 1]
            if begin == end:
                continue
            v0, v1 = corner(clip, camera, faces[f, 0]), corner(clip, camera, faces[f, 1])
            v2 = corner(clip, camera, faces[f, 2])
            z = (
                np.float64(clip[camera, faces[f, 0], 2]),
                np.float64(clip[camera, faces[f, 1], 2]),
                np.float64(clip[camera, faces[f, 2], 2]),
            )
            l0, l1, l2 = cross(v1, v2), cross(v2, v0), cross(v0, v1)
            total = l0[0] + l1[0] + l2[0], l0[1] + l1[1] + l2[1], l0[2] + l1[2] + l2[2]
            w = v0[2], v1[2], v2[2]
            sums[:] = 0.0
            for k in range(begin, end):
                pixel = order[camera, k]
                x, y = centre(pixel % size[1], size[1]), centre(pixel // size[1], size[0])
                add_pixel(
                    sums, x, y, at(total, x, y), weights[camera, pixel], g_weights[camera, pixel], depth[camera, pixel],
                    g_depth[camera, pixel], z, w,
                )  # fmt: skip
            write_corners(sums, v0, v1, v2, corners[camera, f])
    return 0


@helper
def add_pixel(sums, x, y, total, b, g, depth, g_depth, z, w):
    """Add one pixel's share to the sums of its face."""
    b0, b1, b2 = np.float64(b[0]), np.float64(b[1]), np.float64(b[2])
    h0, h1, h2 = np.float64(g[0]), np.float64(g[1]), np.float64(g[2])
    if g_depth != 0.0:
        slope = g_depth / (b0 * w[0] + b1 * w[1] + b2 * w[2])
        h0 += slope * (z[0] - depth * w[0])
        h1 += slope * (z[1] - depth * w[1])
        h2 += slope * (z[2] - depth * w[2])
        sums[9], sums[10], sums[11] = sums[9] + slope * b0, sums[10] + slope * b1, sums[11] + slope * b2
        slope *= depth
        sums[12], sums[13], sums[14] = sums[12] - slope * b0, sums[13] - slope * b1, sums[14] - slope * b2
    mean = h0 * b0 + h1 * b1 + h2 * b2
    share = 1.0 / total
    h0, h1, h2 = (h0 - mean) * share, (h1 - mean) * share, (h2 - mean) * share
    sums[0], sums[1], sums[2] = sums[0] + h0 * x, sums[1] + h0 * y, sums[2] + h0
    sums[3], sums[4], sums[5] = sums[3] + h1 * x, sums[4] + h1 * y, sums[5] + h1
    sums[6], sums[7], sums[8] = sums[6] + h2 * x, sums[7] + h2 * y, sums[8] + h2


@routine
def write_corners(sums, v0, v1, v2, corners):
    """Write the gradients (x, y, z, w) of a face's three corners."""
    g0, g1, g2 = (sums[0], sums[1], sums[2]), (sums[3], sums[4], sums[5]), (sums[6], sums[7], sums[8])
    first = cross(g1, v2), cross(v1, g2)  # v_0 is in e_1 = p . (v_2 x v_0) and in e_2 = p . (v_0 x v_1)
    second = cross(g2, v0), cross(v2, g0)
    third = cross(g0, v1), cross(v0, g1)
    for k, pair in enumerate((first, second, third)):
        corners[k, 0] = pair[0][0] + pair[1][0]
        corners[k, 1] = pair[0][1] + pair[1][1]
        corners[k, 2] = sums[9 + k]
        corners[k, 3] = pair[0][2] + pair[1][2] + sums[12 + k]


@kernel
def add_vertices(job, first, step):
    """Add the corners' gradients [B, F, 3, K] to those of the vertices, out [B, V, K] float32, face after face.

    job: fingerprint, faces, starts, corners, out (zeros). Every step-th camera from `first`.
    """
    _, faces, starts, corners, out = job
    for camera in range(first, out.shape[0], step):
        for f in range(faces.shape[0]):
            if starts[camera, f] != starts[camera, f + 1]:
                for k in range(3):
                    for channel in range(out.shape[2]):
                        out[camera, faces[f, k], channel] += corners[camera, f, k, channel]
    return 0
