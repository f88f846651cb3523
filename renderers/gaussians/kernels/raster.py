"""Compositing of tiles, front to back, and the same sweep again for the gradient.

Per pixel, T is the transmittance (negative: finished, |T| counts), w = alpha T the weight of a Gaussian. For the gradient
let q = sum_k f_k dL/df_k + dL/dalpha, and S the sum of w q over the Gaussians not yet passed; then dL/d(-sigma) is
w q - alpha S / (1 - alpha), with S taken behind the Gaussian. The sweep takes the forward sweep's decisions anew, from
the same arithmetic, so nothing is stored between the two but the picture.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.gaussians.kernels.layout import (
    ALPHA_MAX,
    ENTRY_BYTES,
    FEATURES,
    LOG2_ALPHA_MIN,
    LOG2_OPACITY,
    REACH,
    SHEAR,
    SLOPE,
    TILE,
    TRANSMITTANCE_MIN,
    U,
    V,
    backward_block_bytes,
    forward_block_bytes,
)
from renderers.gaussians.kernels.memory import (
    VECTOR_BYTES,
    add_to_vectors,
    add_vectors,
    dot_vectors,
    load,
    prefetch,
    read_float,
    read_int,
    read_long,
    splats,
    store,
    zeros,
)
from renderers.gaussians.kernels.pixels import (
    begin_backward,
    begin_forward,
    column_pattern,
    end_forward,
    row_pattern,
    write_corners,
)
from renderers.gaussians.kernels.shuffles import store_lane_sums
from renderers.gaussians.kernels.simd import (
    absolute,
    any_lane,
    lowest_bit,
    minimum,
    multiply_add,
    select,
    splat,
    subtract_product,
)

CORNER_BYTES = 8 * 64
AHEAD = 6
"""Entries ahead of which render records are asked for (what is read behind the last list is never used)."""
CHECK_EVERY = 32
"""Entries after which finished blocks are looked for."""


EXP2 = tuple(
    coefficient / 8.0**power
    for power, coefficient in enumerate((1.0, 0.6931437211, 0.2401801428, 0.0552973579, 0.0092057980, 0.0009449036))
)
"""Coefficients in x of the polynomial that approximates 2^(x / 8) for x in [-8, 0]."""


@helper
def exp2(x):
    """Return 2^x for x in [-8, 0], to 2e-6 of its value: a polynomial that gives 2^(x / 8), squared three times."""
    p = multiply_add(x, EXP2[5], EXP2[4])
    p = multiply_add(x, p, EXP2[3])
    p = multiply_add(x, p, EXP2[2])
    p = multiply_add(x, p, EXP2[1])
    p = multiply_add(x, p, EXP2[0])
    p = p * p
    p = p * p
    return p * p


@routine
def unfinished(tile_blocks, step_bytes, blocks):
    """Return the blocks of which some pixel is not finished."""
    left = blocks
    while blocks:
        block = lowest_bit(blocks)
        blocks &= blocks - 1
        if not any_lane(load(tile_blocks + step_bytes * block) > 0.0):
            left &= ~(1 << block)
    return left


@cache
def forward(channels: int) -> Any:
    """Return the kernel that draws `channels` channels (a value of `layout.feature_floats`)."""
    step_bytes = forward_block_bytes(channels)

    @kernel
    def draw(jobs, first, step):
        job = jobs[0]
        tiles = job.tiles_x * job.tiles_y
        corners = job.spare + first * job.spare_bytes
        tile_blocks = corners + CORNER_BYTES
        write_corners(corners)
        render_bytes, lists = job.render_bytes, job.lists
        for item in range(first, job.cameras * tiles, step):
            camera, tile = item // tiles, item % tiles
            stretch = 8 * (camera * (tiles + 1) + tile)
            left, top = TILE * (tile % job.tiles_x), TILE * (tile // job.tiles_x)
            renders = job.renders + camera * job.count * render_bytes
            begin_forward(job, tile_blocks, step_bytes, left, top)
            column, row = column_pattern(left), row_pattern(top)
            live, checked = -1, 0
            for position in range(read_long(job.begins + stretch), read_long(job.ends + stretch)):
                entry = lists + ENTRY_BYTES * position
                prefetch(renders + render_bytes * read_int(entry + ENTRY_BYTES * AHEAD + 8))
                blocks = read_long(entry) & live
                if blocks == 0:
                    continue
                render = renders + render_bytes * read_int(entry + 8)
                slope, shear = splat(read_float(render + SLOPE)), splat(read_float(render + SHEAR))
                reach, highest = splat(-read_float(render + REACH)), splat(read_float(render + LOG2_OPACITY))
                dx0 = read_float(render + U) - column
                s0 = multiply_add(shear, dx0, slope * (read_float(render + V) - row))
                values = splats(render + FEATURES, channels)
                while blocks != 0:
                    block = lowest_bit(blocks)
                    blocks &= blocks - 1
                    corner, at = corners + 8 * block, tile_blocks + step_bytes * block
                    dx = dx0 - read_float(corner)
                    s = subtract_product(slope, read_float(corner + 4), subtract_product(shear, read_float(corner), s0))
                    exponent = subtract_product(s, s, multiply_add(reach * dx, dx, highest))
                    alpha = select(exponent >= LOG2_ALPHA_MIN, minimum(exp2(exponent), ALPHA_MAX), 0.0)
                    before = load(at)
                    weight = alpha * before
                    after = before - weight
                    is_kept = after > TRANSMITTANCE_MIN  # false where the pixel was finished, too
                    store(at, select(is_kept, after, -1.0 * absolute(before)))
                    add_to_vectors(at + VECTOR_BYTES, select(is_kept, weight, 0.0), values)
                checked += 1
                if checked == CHECK_EVERY:
                    checked = 0
                    live = unfinished(tile_blocks, step_bytes, live)
                    if live == 0:
                        break
            end_forward(job, tile_blocks, step_bytes, camera, left, top)

    return draw


@cache
def backward(channels: int, with_absolute: bool) -> Any:
    """Return the kernel that writes the gradient slots of the picture that `forward(channels)` drew."""
    step_bytes = backward_block_bytes(channels)

    @kernel
    def sweep(jobs, first, step):
        job = jobs[0]
        tiles = job.tiles_x * job.tiles_y
        corners = job.spare + first * job.spare_bytes
        tile_blocks = corners + CORNER_BYTES
        spare = tile_blocks + 64 * step_bytes
        write_corners(corners)
        render_bytes, lists = job.render_bytes, job.lists
        for item in range(first, job.cameras * tiles, step):
            camera, tile = item // tiles, item % tiles
            stretch = 8 * (camera * (tiles + 1) + tile)
            left, top = TILE * (tile % job.tiles_x), TILE * (tile // job.tiles_x)
            renders = job.renders + camera * job.count * render_bytes
            begin_backward(job, tile_blocks, step_bytes, camera, left, top, channels, spare)
            column, row = column_pattern(left), row_pattern(top)
            live, checked = -1, 0
            for position in range(read_long(job.begins + stretch), read_long(job.ends + stretch)):
                entry = lists + ENTRY_BYTES * position
                prefetch(renders + render_bytes * read_int(entry + ENTRY_BYTES * AHEAD + 8))
                slot = job.slots + job.slot_bytes * read_int(entry + 12)
                blocks = read_long(entry) & live
                if blocks == 0:
                    for at in range(slot, slot + job.slot_bytes, VECTOR_BYTES):
                        store(at, 0.0)
                    continue
                render = renders + render_bytes * read_int(entry + 8)
                slope, shear = splat(read_float(render + SLOPE)), splat(read_float(render + SHEAR))
                reach, highest = splat(-read_float(render + REACH)), splat(read_float(render + LOG2_OPACITY))
                dx0 = read_float(render + U) - column
                s0 = multiply_add(shear, dx0, slope * (read_float(render + V) - row))
                values, sums = splats(render + FEATURES, channels), zeros(channels)
                m, mx, ms, mxx, mxs, mss, abs_u, abs_v = zeros(8)
                while blocks != 0:
                    block = lowest_bit(blocks)
                    blocks &= blocks - 1
                    corner, at = corners + 8 * block, tile_blocks + step_bytes * block
                    dx = dx0 - read_float(corner)
                    s = subtract_product(slope, read_float(corner + 4), subtract_product(shear, read_float(corner), s0))
                    exponent = subtract_product(s, s, multiply_add(reach * dx, dx, highest))
                    unlimited = exp2(exponent)
                    alpha = select(exponent >= LOG2_ALPHA_MIN, minimum(unlimited, ALPHA_MAX), 0.0)
                    before = load(at)
                    weight = alpha * before
                    after = before - weight
                    is_kept = after > TRANSMITTANCE_MIN
                    store(at, select(is_kept, after, -1.0 * absolute(before)))
                    weight = select(is_kept, weight, 0.0)
                    q = dot_vectors(at + 3 * VECTOR_BYTES, values, load(at + 2 * VECTOR_BYTES))
                    share = weight * q
                    behind = load(at + VECTOR_BYTES) - share
                    store(at + VECTOR_BYTES, behind)
                    sums = add_vectors(sums, weight, at + 3 * VECTOR_BYTES)
                    value = share - alpha / (1.0 - alpha) * behind
                    value = select(is_kept & (unlimited <= ALPHA_MAX), value, 0.0)
                    value_x, value_s = value * dx, value * s
                    m, mx, ms = m + value, mx + value_x, ms + value_s
                    mxx = multiply_add(value_x, dx, mxx)
                    mxs = multiply_add(value_x, s, mxs)
                    mss = multiply_add(value_s, s, mss)
                    if with_absolute:
                        abs_u = abs_u + absolute(subtract_product(reach, value_x, shear * value_s))
                        abs_v = abs_v + absolute(value_s)
                store_lane_sums(slot, (m, mx, ms, mxx, mxs, mss, abs_u, abs_v) + sums)  # noqa: RUF005
                checked += 1
                if checked == CHECK_EVERY:
                    checked = 0
                    live = unfinished(tile_blocks, step_bytes, live)

    return sweep
