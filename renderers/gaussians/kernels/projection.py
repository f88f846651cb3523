"""EWA projection of sixteen Gaussians at a time, and its gradient. The formulas are those of `gaussians.projection`.

A projection record is sixteen floats: what the compositing kernels and the user's `meta` read of one Gaussian in one
camera (`FIELDS`). With k = log2(e) / 2 and the 2D covariance [[a, b], [b, c]] of conic (A, B, C), log2 alpha at an offset
(dx, dy) is log2_opacity - reach dx^2 - (shear dx + slope dy)^2, where reach = k / a, slope = sqrt(k C) and
shear = slope B / C. Being a sum of squares it never exceeds log2_opacity, however long and thin the splat.
"""

from __future__ import annotations

import math

from renderers.gaussians import constants
from renderers.gaussians.kernels.compiling import helper, job_type, kernel
from renderers.gaussians.kernels.memory import load, read_float, store, write_long
from renderers.gaussians.kernels.rows import optional_rows, out_at, put_rows, rows_at
from renderers.gaussians.kernels.shuffles import load_interleaved, store_interleaved, store_transposed
from renderers.gaussians.kernels.simd import (
    LANES,
    absolute,
    all_lanes,
    integer_bits,
    maximum,
    minimum,
    multiply_add,
    round_up,
    select,
    splat,
    split_exponent,
    square_root,
)

FIELDS = ("u", "v", "slope", "shear", "reach", "log2_opacity", "depth", "opacity")
FIELDS += ("conic_a", "conic_b", "conic_c", "radius_x", "radius_y", "half_x", "half_y", "summit")
"""Floats of a projection record. The radii hold int32; half_x and half_y are the half-sizes of the ellipse outside of which
alpha < ALPHA_MIN, a little enlarged (LEVEL_*), and summit is dx where that ellipse has its largest y."""
AT = {name: 4 * index for index, name in enumerate(FIELDS)}
RECORD_BYTES = 4 * len(FIELDS)

JOB = job_type(
    "count cameras width height antialiased means quats scales opacities viewmats intrinsics records flag spare "
    "colors color_floats backgrounds background_floats "
    "g_means2d g_depths g_conics g_opacities d_means d_quats d_scales d_opacities",
    "near_plane far_plane eps2d radius_clip",
)
"""Addresses: inputs; colors and backgrounds, only to be checked; records [C, padded N, 16]; flag (int64, set if a value is
unusable); spare (a kilobyte a worker); g_*: incoming gradients, 0 where there is none; d_*: results."""
SPARE_BYTES = 1024

ALPHA_MIN, EXTENT_MAX = constants.ALPHA_MIN, constants.EXTENT_MAX
MARGIN = 0.5 * constants.JACOBIAN_MARGIN
HALF_LOG2_E = 0.5 / math.log(2.0)
LOG2_LEVELS = -math.log2(constants.ALPHA_MIN)
TWO_LN_2 = 2.0 * math.log(2.0)
LEVEL_FACTOR, LEVEL_SLACK = 1.001, 1e-3
"""Splats are binned this much larger (in log2 of alpha) than they reach, so that rounding never cuts off a pixel."""
RADIUS_MAX = float(2**30)
FINITE_MAX = 3.0e38
QUATERNION_MIN = 1e-24
"""Smallest squared length of a quaternion that still names a rotation."""
RATIO_MIN = 1e-12


@helper
def log2(value):
    """Return log2 of normal positive floats, to about one unit in the last place of the larger of it and 1."""
    fraction, exponent = split_exponent(value)
    t = (fraction - 1.0) / (fraction + 1.0)
    square = t * t
    series = multiply_add(square, 0.3205989, 0.4121985917)
    series = multiply_add(square, series, 0.5770780164)
    series = multiply_add(square, series, 0.9617966939)
    series = multiply_add(square, series, 2.885390082)
    return multiply_add(t, series, exponent)


@helper
def unit_quaternion(at):
    """Return w, x, y, z of unit length, 1 / the given length, and the given length squared."""
    quaternion = load_interleaved(at, 4)
    w, x, y, z = quaternion
    square = w * w + x * x + y * y + z * z
    inverse = 1.0 / square_root(maximum(square, QUATERNION_MIN))
    return w * inverse, x * inverse, y * inverse, z * inverse, inverse, square


@helper
def rotation(w, x, y, z):
    """Return the nine entries of the rotation matrix, row after row."""
    return (
        1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y),
        2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x),
        2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y),
    )  # fmt: skip


@helper
def camera_row(view, row, a, b, c):
    """Return (row of the camera's rotation) . (a, b, c)."""
    at = view + 16 * row
    return multiply_add(a, read_float(at), multiply_add(b, read_float(at + 4), c * read_float(at + 8)))


@helper
def camera_point(view, x, y, z):
    """Return the point in the camera's frame."""
    return (
        camera_row(view, 0, x, y, z) + read_float(view + 12),
        camera_row(view, 1, x, y, z) + read_float(view + 28),
        camera_row(view, 2, x, y, z) + read_float(view + 44),
    )


@helper
def slope_limits(intrinsics, axis, size):
    """Return focal length, principal point, and the limits of x / z (axis 0) or y / z (axis 1) for the Jacobian."""
    focal, centre = read_float(intrinsics + 16 * axis), read_float(intrinsics + 12 * axis + 8)
    margin = MARGIN * size / focal
    return focal, centre, -(centre / focal + margin), (size - centre) / focal + margin


@helper
def image_axes(view, axes, scale_x, scale_y, slope_x, slope_y):
    """Return p and q, the rows of J R M, and the third row of R M; scale = focal / z, slope = limited x / z and y / z."""
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = axes
    depth0, depth1, depth2 = (
        camera_row(view, 2, m00, m10, m20),
        camera_row(view, 2, m01, m11, m21),
        camera_row(view, 2, m02, m12, m22),
    )
    p0 = scale_x * (camera_row(view, 0, m00, m10, m20) - slope_x * depth0)
    p1 = scale_x * (camera_row(view, 0, m01, m11, m21) - slope_x * depth1)
    p2 = scale_x * (camera_row(view, 0, m02, m12, m22) - slope_x * depth2)
    q0 = scale_y * (camera_row(view, 1, m00, m10, m20) - slope_y * depth0)
    q1 = scale_y * (camera_row(view, 1, m01, m11, m21) - slope_y * depth1)
    q2 = scale_y * (camera_row(view, 1, m02, m12, m22) - slope_y * depth2)
    return p0, p1, p2, q0, q1, q2, depth0, depth1, depth2


@helper
def covariance(p0, p1, p2, q0, q1, q2, blur):
    """Return a, b, c with blur, the determinant without blur (|p x q|^2: no cancellation) and with it."""
    a, b, c = p0 * p0 + p1 * p1 + p2 * p2, p0 * q0 + p1 * q1 + p2 * q2, q0 * q0 + q1 * q1 + q2 * q2
    n0, n1, n2 = p1 * q2 - p2 * q1, p2 * q0 - p0 * q2, p0 * q1 - p1 * q0
    bare = n0 * n0 + n1 * n1 + n2 * n2
    return a + blur, b, c + blur, bare, bare + blur * (a + c) + blur * blur


@helper
def sum_of_zeros(address, count, first, step):
    """Return the sum of 0 times every step-th sixteen of `count` floats: NaN if one of them is not finite."""
    total = splat(0.0)
    for i in range(LANES * first, count - LANES + 1, LANES * step):
        total = multiply_add(load(address + 4 * i), 0.0, total)
    for i in range(count - count % LANES, count):
        total = total + 0.0 * read_float(address + 4 * i)
    return total


@kernel
def forward(jobs, first, step):
    """Fill the records of every step-th block of sixteen Gaussians from `first`, in all cameras."""
    job = jobs[0]
    spare = job.spare + first * SPARE_BYTES
    blocks = (job.count + LANES - 1) // LANES
    width, height, clip = float(job.width), float(job.height), job.radius_clip
    total = sum_of_zeros(job.viewmats, 16 * job.cameras, first, step)
    total = total + sum_of_zeros(job.intrinsics, 9 * job.cameras, first, step)
    total = total + sum_of_zeros(job.colors, job.color_floats, first, step)
    total = total + sum_of_zeros(job.backgrounds, job.background_floats, first, step)
    if not all_lanes(absolute(total) < 1.0):
        write_long(job.flag, 1)
    for block in range(first, blocks, step):
        rows = min(LANES, job.count - LANES * block)
        means = load_interleaved(rows_at(job.means, block, 3, rows, spare, 0.0), 3)
        scales = load_interleaved(rows_at(job.scales, block, 3, rows, spare, 0.0), 3)
        opacity = load(rows_at(job.opacities, block, 1, rows, spare, 0.0))
        w, x, y, z, _, length = unit_quaternion(rows_at(job.quats, block, 4, rows, spare, 1.0))
        total = means[0] + means[1] + means[2] + scales[0] + scales[1] + scales[2] + opacity + length
        if not all_lanes((absolute(total) < FINITE_MAX) & (length > QUATERNION_MIN)):
            write_long(job.flag, 1)
        r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
        s0, s1, s2 = scales
        axes = (r00 * s0, r01 * s1, r02 * s2, r10 * s0, r11 * s1, r12 * s2, r20 * s0, r21 * s1, r22 * s2)
        for camera in range(job.cameras):
            view, intrinsics = job.viewmats + 64 * camera, job.intrinsics + 36 * camera
            focal_x, centre_x, low_x, high_x = slope_limits(intrinsics, 0, width)
            focal_y, centre_y, low_y, high_y = slope_limits(intrinsics, 1, height)
            cx, cy, cz = camera_point(view, means[0], means[1], means[2])
            in_range = (cz >= job.near_plane) & (cz <= job.far_plane)
            inverse_z = 1.0 / select(in_range, cz, 1.0)
            tan_x, tan_y = cx * inverse_z, cy * inverse_z
            u, v = multiply_add(tan_x, focal_x, centre_x), multiply_add(tan_y, focal_y, centre_y)
            slope_x, slope_y = minimum(maximum(tan_x, low_x), high_x), minimum(maximum(tan_y, low_y), high_y)
            p0, p1, p2, q0, q1, q2, _, _, _ = image_axes(
                view, axes, inverse_z * focal_x, inverse_z * focal_y, slope_x, slope_y
            )
            a, b, c, bare, determinant = covariance(p0, p1, p2, q0, q1, q2, job.eps2d)
            in_range = in_range & (determinant > 0.0) & (determinant < FINITE_MAX)
            inverse = 1.0 / select(in_range, determinant, 1.0)
            effective = opacity
            if job.antialiased:
                effective = opacity * square_root(maximum(bare * inverse, RATIO_MIN))
            log2_opacity = log2(maximum(effective, 1e-30))
            level = maximum(log2_opacity + LOG2_LEVELS, 0.0)
            extent = minimum(square_root(level * TWO_LN_2), EXTENT_MAX)
            radius_x, radius_y = round_up(extent * square_root(a)), round_up(extent * square_root(c))
            inside = (u + radius_x > 0.0) & (u - radius_x < width) & (v + radius_y > 0.0) & (v - radius_y < height)
            visible = in_range & inside & (effective >= ALPHA_MIN) & ((radius_x > clip) | (radius_y > clip))
            conic_c, inverse_a = a * inverse, 1.0 / a
            slope = square_root(conic_c * HALF_LOG2_E)
            extent = square_root((level * LEVEL_FACTOR + LEVEL_SLACK) * (1.0 / HALF_LOG2_E))
            half_y = extent * square_root(c)
            radius_x = integer_bits(select(visible, minimum(radius_x, RADIUS_MAX), 0.0))
            radius_y = integer_bits(select(visible, minimum(radius_y, RADIUS_MAX), 0.0))
            record = job.records + (camera * blocks + block) * LANES * RECORD_BYTES
            store_transposed(
                record, RECORD_BYTES,
                (u, v, slope, -1.0 * slope * b * inverse_a, inverse_a * HALF_LOG2_E, log2_opacity, cz, effective,
                 c * inverse, -1.0 * b * inverse, conic_c, radius_x, radius_y,
                 extent * square_root(a), half_y, b / c * half_y),
            )  # fmt: skip


@helper
def conic_to_covariance(A, B, C, dA, dB, dC):
    """Return the gradient of a, b, c: the entries of -P V P, the off-diagonal one twice, for P = [[A, B], [B, C]]."""
    half = 0.5 * dB
    w00, w01, w10, w11 = dA * A + half * B, dA * B + half * C, half * A + dC * B, half * B + dC * C
    return -1.0 * (A * w00 + B * w10), -2.0 * (A * w01 + B * w11), -1.0 * (B * w01 + C * w11)


@helper
def quaternion_gradient(w, x, y, z, inverse, g00, g01, g02, g10, g11, g12, g20, g21, g22):
    """Return the gradient of the quaternion as given, of length 1 / inverse, from that of its rotation matrix."""
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


@kernel
def backward(jobs, first, step):
    """Write the gradients of every step-th block of sixteen Gaussians from `first`, summed over cameras."""
    job = jobs[0]
    spare = job.spare + first * SPARE_BYTES
    count = job.count
    blocks = (count + LANES - 1) // LANES
    width, height, zero = float(job.width), float(job.height), splat(0.0)
    for block in range(first, blocks, step):
        rows = min(LANES, count - LANES * block)
        means = load_interleaved(rows_at(job.means, block, 3, rows, spare, 0.0), 3)
        s0, s1, s2 = load_interleaved(rows_at(job.scales, block, 3, rows, spare, 0.0), 3)
        opacity = load(rows_at(job.opacities, block, 1, rows, spare, 0.0))
        w, x, y, z, inverse_length, _ = unit_quaternion(rows_at(job.quats, block, 4, rows, spare, 1.0))
        r00, r01, r02, r10, r11, r12, r20, r21, r22 = rotation(w, x, y, z)
        axes = (r00 * s0, r01 * s1, r02 * s2, r10 * s0, r11 * s1, r12 * s2, r20 * s0, r21 * s1, r22 * s2)
        d_mean0, d_mean1, d_mean2, d_opacity = zero, zero, zero, zero
        d00, d01, d02, d10, d11, d12, d20, d21, d22 = zero, zero, zero, zero, zero, zero, zero, zero, zero
        for camera in range(job.cameras):
            view, intrinsics = job.viewmats + 64 * camera, job.intrinsics + 36 * camera
            focal_x, _, low_x, high_x = slope_limits(intrinsics, 0, width)
            focal_y, _, low_y, high_y = slope_limits(intrinsics, 1, height)
            cx, cy, cz = camera_point(view, means[0], means[1], means[2])
            in_range = (cz >= job.near_plane) & (cz <= job.far_plane)
            inverse_z = 1.0 / select(in_range, cz, 1.0)
            tan_x, tan_y = cx * inverse_z, cy * inverse_z
            slope_x, slope_y = minimum(maximum(tan_x, low_x), high_x), minimum(maximum(tan_y, low_y), high_y)
            scale_x, scale_y = inverse_z * focal_x, inverse_z * focal_y
            p0, p1, p2, q0, q1, q2, e0, e1, e2 = image_axes(view, axes, scale_x, scale_y, slope_x, slope_y)
            a, b, c, bare, determinant = covariance(p0, p1, p2, q0, q1, q2, job.eps2d)
            in_range = in_range & (determinant > 0.0) & (determinant < FINITE_MAX)
            inverse = 1.0 / select(in_range, determinant, 1.0)
            A, B, C = c * inverse, -1.0 * b * inverse, a * inverse
            da, db, dc = zero, zero, zero
            at = optional_rows(job.g_conics, camera, block, 3, rows, count, spare)
            if at:
                gA, gB, gC = load_interleaved(at, 3)
                da, db, dc = conic_to_covariance(A, B, C, gA, gB, gC)
            at = optional_rows(job.g_opacities, camera, block, 1, rows, count, spare)
            if at:
                g_opacity = select(in_range, load(at), zero)
                if job.antialiased:
                    ratio = square_root(maximum(bare * inverse, RATIO_MIN))
                    d_opacity = d_opacity + ratio * g_opacity
                    factor = 0.5 * opacity * g_opacity / ratio
                    rest, trace = 1.0 - ratio * ratio, job.eps2d * inverse
                    da = da + factor * (rest * A - trace)
                    db = db + 2.0 * factor * rest * B
                    dc = dc + factor * (rest * C - trace)
                else:
                    d_opacity = d_opacity + g_opacity
            da, db, dc = select(in_range, da, zero), select(in_range, db, zero), select(in_range, dc, zero)
            dp0, dp1, dp2 = 2.0 * da * p0 + db * q0, 2.0 * da * p1 + db * q1, 2.0 * da * p2 + db * q2
            dq0, dq1, dq2 = 2.0 * dc * q0 + db * p0, 2.0 * dc * q1 + db * p1, 2.0 * dc * q2 + db * p2
            # p = scale_x (row 0 of R M - slope_x row 2), q likewise with row 1
            h00, h01, h02 = scale_x * dp0, scale_x * dp1, scale_x * dp2
            h10, h11, h12 = scale_y * dq0, scale_y * dq1, scale_y * dq2
            d_slope_x = -1.0 * (h00 * e0 + h01 * e1 + h02 * e2)
            d_slope_y = -1.0 * (h10 * e0 + h11 * e1 + h12 * e2)
            h20, h21, h22 = (
                -1.0 * (slope_x * h00 + slope_y * h10),
                -1.0 * (slope_x * h01 + slope_y * h11),
                -1.0 * (slope_x * h02 + slope_y * h12),
            )
            a00, a01, a02 = read_float(view), read_float(view + 4), read_float(view + 8)
            a10, a11, a12 = read_float(view + 16), read_float(view + 20), read_float(view + 24)
            a20, a21, a22 = read_float(view + 32), read_float(view + 36), read_float(view + 40)
            d00, d01, d02 = (
                d00 + h00 * a00 + h10 * a10 + h20 * a20,
                d01 + h01 * a00 + h11 * a10 + h21 * a20,
                d02 + h02 * a00 + h12 * a10 + h22 * a20,
            )
            d10, d11, d12 = (
                d10 + h00 * a01 + h10 * a11 + h20 * a21,
                d11 + h01 * a01 + h11 * a11 + h21 * a21,
                d12 + h02 * a01 + h12 * a11 + h22 * a21,
            )
            d20, d21, d22 = (
                d20 + h00 * a02 + h10 * a12 + h20 * a22,
                d21 + h01 * a02 + h11 * a12 + h21 * a22,
                d22 + h02 * a02 + h12 * a12 + h22 * a22,
            )
            # scale = focal / z; an unlimited slope is x / z
            d_tan_x = select((tan_x >= low_x) & (tan_x <= high_x), d_slope_x, zero)
            d_tan_y = select((tan_y >= low_y) & (tan_y <= high_y), d_slope_y, zero)
            at = optional_rows(job.g_means2d, camera, block, 2, rows, count, spare)
            if at:
                du, dv = load_interleaved(at, 2)
                d_tan_x = d_tan_x + focal_x * select(in_range, du, zero)
                d_tan_y = d_tan_y + focal_y * select(in_range, dv, zero)
            dx, dy = d_tan_x * inverse_z, d_tan_y * inverse_z
            stretch = p0 * dp0 + p1 * dp1 + p2 * dp2 + q0 * dq0 + q1 * dq1 + q2 * dq2
            dz = -1.0 * inverse_z * (stretch + tan_x * d_tan_x + tan_y * d_tan_y)
            at = optional_rows(job.g_depths, camera, block, 1, rows, count, spare)
            if at:
                dz = dz + load(at)
            d_mean0 = d_mean0 + dx * a00 + dy * a10 + dz * a20
            d_mean1 = d_mean1 + dx * a01 + dy * a11 + dz * a21
            d_mean2 = d_mean2 + dx * a02 + dy * a12 + dz * a22
        store_interleaved(out_at(job.d_means, block, 3, rows, spare), (d_mean0, d_mean1, d_mean2))
        put_rows(job.d_means, block, 3, rows, spare)
        d_scale0 = r00 * d00 + r10 * d10 + r20 * d20
        d_scale1 = r01 * d01 + r11 * d11 + r21 * d21
        d_scale2 = r02 * d02 + r12 * d12 + r22 * d22
        store_interleaved(out_at(job.d_scales, block, 3, rows, spare), (d_scale0, d_scale1, d_scale2))
        put_rows(job.d_scales, block, 3, rows, spare)
        gradient = quaternion_gradient(
            w, x, y, z, inverse_length, d00 * s0, d01 * s1, d02 * s2, d10 * s0, d11 * s1, d12 * s2,
            d20 * s0, d21 * s1, d22 * s2,
        )  # fmt: skip
        store_interleaved(out_at(job.d_quats, block, 4, rows, spare), gradient)
        put_rows(job.d_quats, block, 4, rows, spare)
        store(out_at(job.d_opacities, block, 1, rows, spare), d_opacity)
        put_rows(job.d_opacities, block, 1, rows, spare)
