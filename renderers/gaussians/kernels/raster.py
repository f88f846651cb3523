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
    TAKEN_SWEEPS,
    TAKEN_TILES,
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
    fetch_and_add,
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


@helper
def tile_at(job, item):
    """Return camera, left and top pixel, the stretch of the tile lists, and the camera's render records."""
    tiles = job.tiles_x * job.tiles_y
    camera, tile = item // tiles, item % tiles
    left, top = TILE * (tile % job.tiles_x), TILE * (tile // job.tiles_x)
    stretch = 8 * (camera * (tiles + 1) + tile)
    begin, end = read_long(job.begins + stretch), read_long(job.begins + stretch + 8)
    return camera, left, top, begin, end, job.renders + camera * job.count * job.render_bytes


@helper
def next_record(entry, renders, render_bytes):
    """Return the render record of an entry, and ask for one that will be needed soon."""
    prefetch(renders + render_bytes * read_int(entry + ENTRY_BYTES * AHEAD + 8))
    return renders + render_bytes * read_int(entry + 8)


@helper
def splat_shape(render, column, row):
    """Return what log2 alpha is made of (slope, shear, -reach, log2 opacity), and dx and s in the tile's first block."""
    slope, shear = splat(read_float(render + SLOPE)), splat(read_float(render + SHEAR))
    reach, highest = splat(-read_float(render + REACH)), splat(read_float(render + LOG2_OPACITY))
    dx = read_float(render + U) - column
    return slope, shear, reach, highest, dx, multiply_add(shear, dx, slope * (read_float(render + V) - row))


@helper
def log2_alpha(shape, corner):
    """Return log2 alpha, dx and s = shear dx + slope dy in a block."""
    slope, shear, reach, highest, dx0, s0 = shape
    dx = dx0 - read_float(corner)
    s = subtract_product(slope, read_float(corner + 4), subtract_product(shear, read_float(corner), s0))
    return subtract_product(s, s, multiply_add(reach * dx, dx, highest)), dx, s


@helper
def pass_splat(at, alpha):
    """Take a Gaussian's part from a block's transmittance; return its weight before that, and where it is drawn."""
    before = load(at)
    weight = alpha * before
    after = before - weight
    is_kept = after > TRANSMITTANCE_MIN  # false where the pixel was finished, too
    store(at, select(is_kept, after, -1.0 * absolute(before)))
    return select(is_kept, weight, 0.0), is_kept


@helper
def draw_splat(blocks, shape, values, corners, tile_blocks, step_bytes):
    """Add a Gaussian to the blocks it meets."""
    while blocks != 0:
        block = lowest_bit(blocks)
        blocks &= blocks - 1
        at = tile_blocks + step_bytes * block
        exponent, _, _ = log2_alpha(shape, corners + 8 * block)
        alpha = select(exponent >= LOG2_ALPHA_MIN, minimum(exp2(exponent), ALPHA_MAX), 0.0)
        weight, _ = pass_splat(at, alpha)
        add_to_vectors(at + VECTOR_BYTES, weight, values)


@helper
def sweep_splat(blocks, shape, values, sums, corners, tile_blocks, step_bytes, slot, with_absolute):
    """Write a Gaussian's gradient slot: sums over the blocks it meets. `sums` are as many zeros as values."""
    shear, reach = shape[1], shape[2]
    m, mx, ms, mxx, mxs, mss, abs_u, abs_v = zeros(8)
    while blocks != 0:
        block = lowest_bit(blocks)
        blocks &= blocks - 1
        at = tile_blocks + step_bytes * block
        exponent, dx, s = log2_alpha(shape, corners + 8 * block)
        unlimited = exp2(exponent)
        alpha = select(exponent >= LOG2_ALPHA_MIN, minimum(unlimited, ALPHA_MAX), 0.0)
        weight, is_kept = pass_splat(at, alpha)
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


@helper
def clear_slot(job, slot):
    """Write zeros."""
    for at in range(slot, slot + job.slot_bytes, VECTOR_BYTES):
        store(at, 0.0)


@cache
def forward(channels: int) -> Any:
    """Return the kernel that draws `channels` channels (a value of `layout.feature_floats`).

    Each thread takes the next tile that no other has taken; `first` is its place in the spare memory.
    """
    step_bytes = forward_block_bytes(channels)

    @kernel
    def draw(jobs, first, step):
        job = jobs[0]
        items = job.cameras * job.tiles_x * job.tiles_y
        corners = job.spare + first * job.spare_bytes
        tile_blocks = corners + CORNER_BYTES
        write_corners(corners)
        render_bytes, lists = job.render_bytes, job.lists
        item = fetch_and_add(job, TAKEN_TILES, 1)
        while item < items:
            camera, left, top, begin, end, renders = tile_at(job, item)
            begin_forward(job, tile_blocks, step_bytes, left, top)
            column, row = column_pattern(left), row_pattern(top)
            live, checked = -1, 0
            for entry in range(lists + ENTRY_BYTES * begin, lists + ENTRY_BYTES * end, ENTRY_BYTES):
                render = next_record(entry, renders, render_bytes)
                blocks = read_long(entry) & live
                if blocks == 0:
                    continue
                values = splats(render + FEATURES, channels)
                draw_splat(blocks, splat_shape(render, column, row), values, corners, tile_blocks, step_bytes)
                checked += 1
                if checked == CHECK_EVERY:
                    checked = 0
                    live = unfinished(tile_blocks, step_bytes, live)
                    if live == 0:
                        break
            end_forward(job, tile_blocks, step_bytes, camera, left, top)
            item = fetch_and_add(job, TAKEN_TILES, 1)

    return draw


@cache
def backward(channels: int, with_absolute: bool) -> Any:
    """Return the kernel that writes the gradient slots of the picture that `forward(channels)` drew."""
    step_bytes = backward_block_bytes(channels)

    @kernel
    def sweep(jobs, first, step):
        job = jobs[0]
        items = job.cameras * job.tiles_x * job.tiles_y
        corners = job.spare + first * job.spare_bytes
        tile_blocks = corners + CORNER_BYTES
        spare = tile_blocks + 64 * step_bytes
        write_corners(corners)
        render_bytes, lists = job.render_bytes, job.lists
        item = fetch_and_add(job, TAKEN_SWEEPS, 1)
        while item < items:
            camera, left, top, begin, end, renders = tile_at(job, item)
            begin_backward(job, tile_blocks, step_bytes, camera, left, top, channels, spare)
            column, row = column_pattern(left), row_pattern(top)
            live, checked = -1, 0
            for entry in range(lists + ENTRY_BYTES * begin, lists + ENTRY_BYTES * end, ENTRY_BYTES):
                render = next_record(entry, renders, render_bytes)
                slot = job.slots + job.slot_bytes * read_int(entry + 12)
                blocks = read_long(entry) & live
                if blocks == 0:
                    clear_slot(job, slot)
                    continue
                shape, values = splat_shape(render, column, row), splats(render + FEATURES, channels)
                sums = zeros(channels)
                sweep_splat(blocks, shape, values, sums, corners, tile_blocks, step_bytes, slot, with_absolute)
                checked += 1
                if checked == CHECK_EVERY:
                    checked = 0
                    live = unfinished(tile_blocks, step_bytes, live)
            item = fetch_and_add(job, TAKEN_SWEEPS, 1)

    return sweep
