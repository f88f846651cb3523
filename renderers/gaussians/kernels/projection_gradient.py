"""The gradient of the projection of sixteen Gaussians at a time, summed over cameras."""

from __future__ import annotations

from renderers.gaussians.kernels.compiling import helper, kernel
from renderers.gaussians.kernels.memory import fetch_and_add, load, read_float, store
from renderers.gaussians.kernels.projection import (
    CHUNK,
    FINITE_MAX,
    RATIO_MIN,
    SPARE_BYTES,
    TAKEN_GRADIENTS,
    covariance,
    dot,
    look,
    project_axes,
    rotation_axes,
    slope_limits,
    times,
    unit_quaternion,
)
from renderers.gaussians.kernels.rows import optional_rows, out_at, put_rows, rows_at
from renderers.gaussians.kernels.shuffles import load_interleaved, store_interleaved
from renderers.gaussians.kernels.simd import LANES, maximum, minimum, select, splat, square_root


@helper
def add(a, b):
    """Return the sum of 3-vectors."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@helper
def turn_back(view, vector):
    """Return the transpose of the camera's rotation times a 3-vector."""
    x, y, z = vector
    return (
        x * read_float(view) + y * read_float(view + 16) + z * read_float(view + 32),
        x * read_float(view + 4) + y * read_float(view + 20) + z * read_float(view + 36),
        x * read_float(view + 8) + y * read_float(view + 24) + z * read_float(view + 40),
    )


@helper
def cross(a, b):
    """Return the vector product of 3-vectors."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@helper
def times_conic(p, q, blur, inverse):
    """Return P p and P q: for each axis j, the conic P times (p_j, q_j), as two 3-vectors.

    The conic is nearly singular along a needle, and its product with the needle's own axis would be lost in rounding;
    written with n = p x q, as (q x n + blur p, n x p + blur q) / det, it is not.
    """
    normal, share = times(inverse, cross(p, q)), blur * inverse
    return add(cross(q, normal), times(share, p)), add(cross(normal, p), times(share, q))


@helper
def quaternion_gradient(w, x, y, z, inverse, first, second, third):
    """Return the gradient of the quaternion as given, of length 1 / inverse, from those of the rotation's columns."""
    g00, g10, g20 = first
    g01, g11, g21 = second
    g02, g12, g22 = third
    dw = 2.0 * (x * (g21 - g12) + y * (g02 - g20) + z * (g10 - g01))
    dx = 2.0 * (y * (g01 + g10) + z * (g02 + g20) + w * (g21 - g12) - 2.0 * x * (g11 + g22))
    dy = 2.0 * (x * (g01 + g10) + z * (g12 + g21) + w * (g02 - g20) - 2.0 * y * (g00 + g22))
    dz = 2.0 * (x * (g02 + g20) + y * (g12 + g21) + w * (g10 - g01) - 2.0 * z * (g00 + g11))
    along = dw * w + dx * x + dy * y + dz * z
    return (
        (dw - along * w) * inverse,
        (dx - along * x) * inverse,
        (dy - along * y) * inverse,
        (dz - along * z) * inverse,
    )


@helper
def shape_gradient(job, camera, block, rows, spare, bare, inverse, in_range, opacity):
    """Return the gradient V of the conic P times -2 (its three entries), twice the gradient of the covariance beside
    -P V P (rest P - trace I), and the gradient of the opacity.

    With antialiasing o' = o ratio, ratio^2 = det without blur / det with blur.
    """
    zero = splat(0.0)
    v00, v01, v11, rest, trace, d_opacity = zero, zero, zero, zero, zero, zero
    at = optional_rows(job.g_conics, camera, block, 3, rows, job.count, spare)
    if at:
        gA, gB, gC = load_interleaved(at, 3)
        v00, v01, v11 = -2.0 * gA, -1.0 * gB, -2.0 * gC
    at = optional_rows(job.g_opacities, camera, block, 1, rows, job.count, spare)
    if at:
        d_opacity = select(in_range, load(at), zero)
        if job.antialiased:
            ratio = square_root(maximum(bare * inverse, RATIO_MIN))
            factor = opacity * d_opacity / ratio
            rest, trace = factor * (1.0 - ratio * ratio), factor * job.eps2d * inverse
            d_opacity = d_opacity * ratio
    return (v00, v01, v11, rest, trace), d_opacity


@helper
def axis_gradient(view, shape, conic, in_range, p, q, r, s, e, scale_x, scale_y, slope_x, slope_y):
    """Return the gradient of an axis (world frame), of the two slopes, and p dp + q dq, from that of the shape.

    With the gradient V of the conic P, that of the covariance is -P V P, and that of (p, q) is -2 P V (r, s), where
    (r, s) = P (p, q).
    """
    A, B, C = conic
    v00, v01, v11, rest, trace = shape
    t, u = v00 * r + v01 * s, v01 * r + v11 * s
    dp, dq = A * t + B * u + rest * r - trace * p, B * t + C * u + rest * s - trace * q
    dp, dq = select(in_range, dp, splat(0.0)), select(in_range, dq, splat(0.0))
    x, y = scale_x * dp, scale_y * dq
    d_axis = turn_back(view, (x, y, -1.0 * (slope_x * x + slope_y * y)))
    return d_axis, -1.0 * x * e, -1.0 * y * e, p * dp + q * dq


@helper
def camera_gradient(job, camera, block, rows, spare, means, axes, opacity):
    """Return what one camera adds to the gradients of the means, the three axes, and the opacity."""
    view, intrinsics, zero = job.viewmats + 64 * camera, job.intrinsics + 36 * camera, splat(0.0)
    focal_x, _, low_x, high_x = slope_limits(intrinsics, 0, float(job.width))
    focal_y, _, low_y, high_y = slope_limits(intrinsics, 1, float(job.height))
    _, in_range, inverse_z, tan_x, tan_y = look(job, camera, means)
    slope_x, slope_y = minimum(maximum(tan_x, low_x), high_x), minimum(maximum(tan_y, low_y), high_y)
    scale_x, scale_y = inverse_z * focal_x, inverse_z * focal_y
    p, q, e = project_axes(view, axes, scale_x, scale_y, slope_x, slope_y)
    a, b, c, bare, determinant = covariance(p, q, job.eps2d)
    in_range = in_range & (determinant > 0.0) & (determinant < FINITE_MAX)
    inverse = 1.0 / select(in_range, determinant, 1.0)
    shape, d_opacity = shape_gradient(job, camera, block, rows, spare, bare, inverse, in_range, opacity)
    conic, (r, s) = (c * inverse, -1.0 * b * inverse, a * inverse), times_conic(p, q, job.eps2d, inverse)
    more = scale_x, scale_y, slope_x, slope_y
    d0, x0, y0, stretch0 = axis_gradient(view, shape, conic, in_range, p[0], q[0], r[0], s[0], e[0], *more)
    d1, x1, y1, stretch1 = axis_gradient(view, shape, conic, in_range, p[1], q[1], r[1], s[1], e[1], *more)
    d2, x2, y2, stretch2 = axis_gradient(view, shape, conic, in_range, p[2], q[2], r[2], s[2], e[2], *more)
    # A slope is x / z unless it was limited; u = focal x / z + centre; scale = focal / z.
    d_tan_x = select((tan_x >= low_x) & (tan_x <= high_x), x0 + x1 + x2, zero)
    d_tan_y = select((tan_y >= low_y) & (tan_y <= high_y), y0 + y1 + y2, zero)
    at = optional_rows(job.g_means2d, camera, block, 2, rows, job.count, spare)
    if at:
        du, dv = load_interleaved(at, 2)
        d_tan_x = d_tan_x + focal_x * select(in_range, du, zero)
        d_tan_y = d_tan_y + focal_y * select(in_range, dv, zero)
    dz = -1.0 * inverse_z * (stretch0 + stretch1 + stretch2 + tan_x * d_tan_x + tan_y * d_tan_y)
    at = optional_rows(job.g_depths, camera, block, 1, rows, job.count, spare)
    if at:
        dz = dz + load(at)
    return turn_back(view, (d_tan_x * inverse_z, d_tan_y * inverse_z, dz)), d0, d1, d2, d_opacity


@kernel
def backward(jobs, first, step):
    """Write the gradients of blocks of sixteen Gaussians, summed over cameras, until all are taken."""
    job = jobs[0]
    spare = job.spare + first * SPARE_BYTES
    blocks = (job.count + LANES - 1) // LANES
    chunk = fetch_and_add(job, TAKEN_GRADIENTS, CHUNK)
    while chunk < blocks:
        for block in range(chunk, min(chunk + CHUNK, blocks)):
            write_block(job, block, min(LANES, job.count - LANES * block), spare)
        chunk = fetch_and_add(job, TAKEN_GRADIENTS, CHUNK)


@helper
def write_block(job, block, rows, spare):
    """Write the gradients of sixteen Gaussians."""
    means = load_interleaved(rows_at(job.means, block, 3, rows, spare, 0.0), 3)
    scales = load_interleaved(rows_at(job.scales, block, 3, rows, spare, 0.0), 3)
    opacity = load(rows_at(job.opacities, block, 1, rows, spare, 0.0))
    w, x, y, z, inverse_length, _ = unit_quaternion(rows_at(job.quats, block, 4, rows, spare, 1.0))
    turn = rotation_axes(w, x, y, z)
    axes = (times(scales[0], turn[0]), times(scales[1], turn[1]), times(scales[2], turn[2]))
    zero = splat(0.0)
    d_means, d0, d1, d2 = (zero, zero, zero), (zero, zero, zero), (zero, zero, zero), (zero, zero, zero)
    d_opacity = zero
    for camera in range(job.cameras):
        more = camera_gradient(job, camera, block, rows, spare, means, axes, opacity)
        d_means, d_opacity = add(d_means, more[0]), d_opacity + more[4]
        d0, d1, d2 = add(d0, more[1]), add(d1, more[2]), add(d2, more[3])
    store_interleaved(out_at(job.d_means, block, 3, rows, spare), d_means)
    put_rows(job.d_means, block, 3, rows, spare)
    store_interleaved(
        out_at(job.d_scales, block, 3, rows, spare), (dot(turn[0], d0), dot(turn[1], d1), dot(turn[2], d2))
    )
    put_rows(job.d_scales, block, 3, rows, spare)
    columns = (times(scales[0], d0), times(scales[1], d1), times(scales[2], d2))
    quats = quaternion_gradient(w, x, y, z, inverse_length, columns[0], columns[1], columns[2])
    store_interleaved(out_at(job.d_quats, block, 4, rows, spare), quats)
    put_rows(job.d_quats, block, 4, rows, spare)
    store(out_at(job.d_opacities, block, 1, rows, spare), d_opacity)
    put_rows(job.d_opacities, block, 1, rows, spare)
