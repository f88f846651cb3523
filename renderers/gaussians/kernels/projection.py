"""EWA projection of sixteen Gaussians at a time. The formulas are those of `gaussians.projection`.

A projection record is sixteen floats: what the compositing kernels and the user's `meta` read of one Gaussian in one
camera (`FIELDS`). With k = log2(e) / 2 and the 2D covariance [[a, b], [b, c]] of conic (A, B, C), log2 alpha at an offset
(dx, dy) is log2_opacity - reach dx^2 - (shear dx + slope dy)^2, where reach = k / a, slope = sqrt(k C) and
shear = slope B / C. Being a sum of squares it never exceeds log2_opacity, however long and thin the splat.
"""

from __future__ import annotations

import math

from renderers.gaussians import constants
from renderers.gaussians.kernels.compiling import helper, job_type, kernel, routine
from renderers.gaussians.kernels.memory import fetch_and_add, load, read_float
from renderers.gaussians.kernels.rows import rows_at
from renderers.gaussians.kernels.shuffles import load_interleaved, store_transposed
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
    "count cameras width height antialiased "
    "means quats scales opacities viewmats intrinsics records colors color_floats backgrounds background_floats spare "
    "g_means2d g_depths g_conics g_opacities d_means d_quats d_scales d_opacities taken_blocks taken_gradients",
    "near_plane far_plane eps2d radius_clip",
)
"""Addresses: inputs; colors and backgrounds, only to be checked; records [C, padded N, 16]; spare (a kilobyte a
worker); g_*: incoming gradients, 0 where there is none; d_*: results; taken_*: the first block of sixteen Gaussians not
yet taken by a thread, forward and backward, 0 before a call."""
TAKEN_BLOCKS, TAKEN_GRADIENTS = (JOB.fields[name][1] for name in ("taken_blocks", "taken_gradients"))
CHUNK = 32
"""Blocks of sixteen Gaussians that a thread takes at a time."""
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
def rotation_axes(w, x, y, z):
    """Return the three columns of the rotation matrix of a unit quaternion: the Gaussian's axes."""
    first = (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y))
    second = (2.0 * (x * y - w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z + w * x))
    third = (2.0 * (x * z + w * y), 2.0 * (y * z - w * x), 1.0 - 2.0 * (x * x + y * y))
    return first, second, third


@helper
def times(factor, vector):
    """Return a 3-vector times a number."""
    return factor * vector[0], factor * vector[1], factor * vector[2]


@helper
def dot(a, b):
    """Return the scalar product of 3-vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@helper
def camera_row(view, row, vector):
    """Return (row of the camera's rotation) . vector."""
    at = view + 16 * row
    rest = multiply_add(vector[1], read_float(at + 4), vector[2] * read_float(at + 8))
    return multiply_add(vector[0], read_float(at), rest)


@helper
def slope_limits(intrinsics, axis, size):
    """Return focal length, principal point, and the limits of x / z (axis 0) or y / z (axis 1) for the Jacobian."""
    focal, centre = read_float(intrinsics + 16 * axis), read_float(intrinsics + 12 * axis + 8)
    margin = MARGIN * size / focal
    return focal, centre, -(centre / focal + margin), (size - centre) / focal + margin


@helper
def look(job, camera, means):
    """Return depth, whether it is drawn, 1 / depth, x / z and y / z of Gaussian centres in a camera's frame."""
    view = job.viewmats + 64 * camera
    depth = camera_row(view, 2, means) + read_float(view + 44)
    in_range = (depth >= job.near_plane) & (depth <= job.far_plane)
    inverse = 1.0 / select(in_range, depth, 1.0)  # behind the camera a harmless depth keeps all values finite
    x = camera_row(view, 0, means) + read_float(view + 12)
    y = camera_row(view, 1, means) + read_float(view + 28)
    return depth, in_range, inverse, x * inverse, y * inverse


@helper
def project_axis(view, axis, scale_x, scale_y, slope_x, slope_y):
    """Return an axis in the image plane (p, q), and along the line of sight (e).

    scale = focal / z; slope = x / z and y / z, limited.
    """
    e = camera_row(view, 2, axis)
    p = scale_x * (camera_row(view, 0, axis) - slope_x * e)
    q = scale_y * (camera_row(view, 1, axis) - slope_y * e)
    return p, q, e


@helper
def project_axes(view, axes, scale_x, scale_y, slope_x, slope_y):
    """Return p, q, e of three axes as 3-vectors."""
    p0, q0, e0 = project_axis(view, axes[0], scale_x, scale_y, slope_x, slope_y)
    p1, q1, e1 = project_axis(view, axes[1], scale_x, scale_y, slope_x, slope_y)
    p2, q2, e2 = project_axis(view, axes[2], scale_x, scale_y, slope_x, slope_y)
    return (p0, p1, p2), (q0, q1, q2), (e0, e1, e2)


@helper
def covariance(p, q, blur):
    """Return a, b, c with blur, the determinant without blur (|p x q|^2: no cancellation) and with it."""
    a, b, c = dot(p, p), dot(p, q), dot(q, q)
    normal = (p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0])
    bare = dot(normal, normal)
    return a + blur, b, c + blur, bare, bare + blur * (a + c) + blur * blur


@helper
def sum_of_zeros(address, count):
    """Return the sum of 0 times `count` floats in its lanes: NaN if one of them is not finite."""
    total = splat(0.0)
    for i in range(0, count - LANES + 1, LANES):
        total = multiply_add(load(address + 4 * i), 0.0, total)
    for i in range(count - count % LANES, count):
        total = total + 0.0 * read_float(address + 4 * i)
    return total


@helper
def can_cameras_see(job):
    """Return whether every camera has focal lengths above 0 and a direction of sight."""
    can_see = True
    for camera in range(job.cameras):
        intrinsics, row = job.intrinsics + 36 * camera, job.viewmats + 64 * camera + 32
        can_see = can_see & (read_float(intrinsics) > 0.0) & (read_float(intrinsics + 16) > 0.0)
        has_direction = (read_float(row) != 0.0) | (read_float(row + 4) != 0.0) | (read_float(row + 8) != 0.0)
        can_see = can_see & has_direction
    return can_see


@routine
def is_rest_usable(job):
    """Return whether all values are finite, and cameras see, that are not looked at in passing."""
    total = sum_of_zeros(job.viewmats, 16 * job.cameras) + sum_of_zeros(job.intrinsics, 9 * job.cameras)
    total = total + sum_of_zeros(job.colors, job.color_floats)
    total = total + sum_of_zeros(job.backgrounds, job.background_floats)
    return all_lanes(absolute(total) < 1.0) & can_cameras_see(job)


@kernel
def forward(jobs, first, step):
    """Fill the records of blocks of sixteen Gaussians in all cameras, until all are taken; return whether all values that
    were looked at can be used."""
    job, is_usable = jobs[0], True
    spare = job.spare + first * SPARE_BYTES
    blocks = (job.count + LANES - 1) // LANES
    chunk = fetch_and_add(job, TAKEN_BLOCKS, CHUNK)
    if chunk == 0:
        is_usable = is_rest_usable(job)
    while chunk < blocks:
        for block in range(chunk, min(chunk + CHUNK, blocks)):
            rows = min(LANES, job.count - LANES * block)
            means = load_interleaved(rows_at(job.means, block, 3, rows, spare, 0.0), 3)
            scales = load_interleaved(rows_at(job.scales, block, 3, rows, spare, 0.0), 3)
            opacity = load(rows_at(job.opacities, block, 1, rows, spare, 0.0))
            w, x, y, z, _, length = unit_quaternion(rows_at(job.quats, block, 4, rows, spare, 1.0))
            total = means[0] + means[1] + means[2] + scales[0] + scales[1] + scales[2] + opacity + length
            if not all_lanes((absolute(total) < FINITE_MAX) & (length > QUATERNION_MIN)):
                is_usable = False
            turn = rotation_axes(w, x, y, z)
            axes = (times(scales[0], turn[0]), times(scales[1], turn[1]), times(scales[2], turn[2]))
            for camera in range(job.cameras):
                record = job.records + (camera * blocks + block) * LANES * RECORD_BYTES
                write_records(job, camera, means, axes, opacity, record)
        chunk = fetch_and_add(job, TAKEN_BLOCKS, CHUNK)
    return is_usable


@helper
def write_records(job, camera, means, axes, opacity, record):
    """Write the projection records of sixteen Gaussians in one camera."""
    view, intrinsics = job.viewmats + 64 * camera, job.intrinsics + 36 * camera
    width, height, clip = float(job.width), float(job.height), job.radius_clip
    focal_x, centre_x, low_x, high_x = slope_limits(intrinsics, 0, width)
    focal_y, centre_y, low_y, high_y = slope_limits(intrinsics, 1, height)
    depth, in_range, inverse_z, tan_x, tan_y = look(job, camera, means)
    u, v = multiply_add(tan_x, focal_x, centre_x), multiply_add(tan_y, focal_y, centre_y)
    slope_x, slope_y = minimum(maximum(tan_x, low_x), high_x), minimum(maximum(tan_y, low_y), high_y)
    p, q, _ = project_axes(view, axes, inverse_z * focal_x, inverse_z * focal_y, slope_x, slope_y)
    a, b, c, bare, determinant = covariance(p, q, job.eps2d)
    in_range = in_range & (determinant > 0.0) & (determinant < FINITE_MAX)
    inverse = 1.0 / select(in_range, determinant, 1.0)
    if job.antialiased:
        opacity = opacity * square_root(maximum(bare * inverse, RATIO_MIN))
    log2_opacity = log2(maximum(opacity, 1e-30))
    level = maximum(log2_opacity + LOG2_LEVELS, 0.0)
    extent = minimum(square_root(level * TWO_LN_2), EXTENT_MAX)
    radius_x, radius_y = round_up(extent * square_root(a)), round_up(extent * square_root(c))
    inside = (u + radius_x > 0.0) & (u - radius_x < width) & (v + radius_y > 0.0) & (v - radius_y < height)
    visible = in_range & inside & (opacity >= ALPHA_MIN) & ((radius_x > clip) | (radius_y > clip))
    conic_c, inverse_a = a * inverse, 1.0 / a
    slope = square_root(conic_c * HALF_LOG2_E)
    extent = square_root((level * LEVEL_FACTOR + LEVEL_SLACK) * (1.0 / HALF_LOG2_E))
    half_y = extent * square_root(c)
    radius_x = integer_bits(select(visible, minimum(radius_x, RADIUS_MAX), 0.0))
    radius_y = integer_bits(select(visible, minimum(radius_y, RADIUS_MAX), 0.0))
    store_transposed(
        record, RECORD_BYTES,
        (u, v, slope, -1.0 * slope * b * inverse_a, inverse_a * HALF_LOG2_E, log2_opacity, depth, opacity,
         c * inverse, -1.0 * b * inverse, conic_c, radius_x, radius_y, extent * square_root(a), half_y, b / c * half_y),
    )  # fmt: skip
