"""Between the rows of a picture and the blocks of a tile: what happens before a tile's first entry and after its last.

The working memory of a tile holds its blocks one after the other, each `step` bytes: vectors of sixteen pixels (see
`layout.forward_block_bytes`). Four blocks side by side, at a distance of eight, are four rows of sixteen pixels.
"""

from __future__ import annotations

from renderers.gaussians.kernels.compiling import helper, routine
from renderers.gaussians.kernels.layout import (
    BLOCK,
    COLUMNS,
    DEPTH_ALPHA_MIN,
    TILE,
    backward_block_bytes,
    forward_block_bytes,
)
from renderers.gaussians.kernels.memory import VECTOR_BYTES, load, load_strided, read_float, store, write_float
from renderers.gaussians.kernels.shuffles import swap_quarters
from renderers.gaussians.kernels.simd import LANES, absolute, maximum, ramp, round_down, select, splat

BLOCKS = COLUMNS * COLUMNS


@helper
def column_pattern(left):
    """Return the x of the sixteen pixel centres of the tile's first block."""
    return ramp() - BLOCK * round_down(ramp() * (1.0 / BLOCK)) + (left + 0.5)


@helper
def row_pattern(top):
    """Return the y of the sixteen pixel centres of the tile's first block."""
    return round_down(ramp() * (1.0 / BLOCK)) + (top + 0.5)


@routine
def write_corners(corners):
    """Write how far each block of a tile lies right of and below the first, in pixels: x, then y."""
    for block in range(BLOCKS):
        write_float(corners + 8 * block, BLOCK * (block // COLUMNS))
        write_float(corners + 8 * block + 4, BLOCK * (block % COLUMNS))


@routine
def start_transmittance(job, blocks, step, left, top):
    """Set the transmittance of a tile's pixels to 1, and of those outside the image to -1, which means finished."""
    if left + TILE <= job.width and top + TILE <= job.height:
        for at in range(blocks, blocks + BLOCKS * step, step):
            store(at, 1.0)
        return
    column, row = column_pattern(left), row_pattern(top)
    for block in range(BLOCKS):
        x, y = BLOCK * (block // COLUMNS), BLOCK * (block % COLUMNS)
        is_inside = (column < job.width - x) & (row < job.height - y)
        store(blocks + step * block, select(is_inside, 1.0, -1.0))


@routine
def begin_forward(job, blocks, step, left, top):
    """Start a tile: transmittance and black channels."""
    for at in range(blocks, blocks + BLOCKS * step, VECTOR_BYTES):
        store(at, 0.0)
    start_transmittance(job, blocks, step, left, top)


@routine
def write_rows(block, apart, target, row_bytes, rows):
    """Write the vectors of four blocks, `apart` bytes from each other, as up to four rows of sixteen pixels."""
    four = (load(block), load(block + apart), load(block + 2 * apart), load(block + 3 * apart))
    first, second, third, fourth = swap_quarters(four)
    store(target, first)
    if rows > 1:
        store(target + row_bytes, second)
    if rows > 2:
        store(target + 2 * row_bytes, third)
    if rows > 3:
        store(target + 3 * row_bytes, fourth)


@routine
def end_forward(job, blocks, step, camera, left, top):
    """Add the background, divide the expected depth, and write a tile's pixels."""
    channels, row_bytes, apart = job.channels + job.with_depth, 4 * job.out_width, COLUMNS * step
    for row in range(COLUMNS):
        y = top + BLOCK * row
        if y >= job.height:
            break
        for half in range(2):
            x = left + LANES * half
            if x >= job.width:
                break
            first = blocks + (COLUMNS * BLOCK * half + row) * step
            for at in range(first, first + BLOCK * apart, apart):
                finish_block(job, at, camera, channels)
            target = job.out + row_bytes * (camera * (channels + 1) * job.height + y) + 4 * x
            for k in range(channels):
                plane = target + k * job.height * row_bytes
                write_rows(first + (1 + k) * VECTOR_BYTES, apart, plane, row_bytes, job.height - y)
            write_rows(first, apart, target + channels * job.height * row_bytes, row_bytes, job.height - y)


@helper
def finish_block(job, block, camera, channels):
    """Turn a block's transmittance into alpha, add backgrounds, divide the expected depth."""
    backgrounds = job.backgrounds + 4 * channels * camera
    left_over = absolute(load(block))
    alpha = 1.0 - left_over
    store(block, alpha)
    for k in range(channels):
        at = block + (1 + k) * VECTOR_BYTES
        value = load(at) + left_over * read_float(backgrounds + 4 * k)
        if job.expected and k == channels - 1:
            value = value / maximum(alpha, DEPTH_ALPHA_MIN)
        store(at, value)


@helper
def read_row(source, column_bytes, columns, spare):
    """Return up to sixteen floats that lie column_bytes apart, filled up with 0."""
    if columns >= LANES:
        return load(source) if column_bytes == 4 else load_strided(source, column_bytes)
    store(spare, 0.0)
    for i in range(columns):
        write_float(spare + 4 * i, read_float(source + column_bytes * i))
    return load(spare)


@routine
def read_rows(source, row_bytes, column_bytes, rows, columns, spare, block, apart):
    """Read up to four rows of up to sixteen pixels into four blocks; 0 where there is no source."""
    first, second, third, fourth = splat(0.0), splat(0.0), splat(0.0), splat(0.0)
    if source:
        first = read_row(source, column_bytes, columns, spare)
        if rows > 1:
            second = read_row(source + row_bytes, column_bytes, columns, spare)
        if rows > 2:
            third = read_row(source + 2 * row_bytes, column_bytes, columns, spare)
        if rows > 3:
            fourth = read_row(source + 3 * row_bytes, column_bytes, columns, spare)
    first, second, third, fourth = swap_quarters((first, second, third, fourth))
    store(block, first)
    store(block + apart, second)
    store(block + 2 * apart, third)
    store(block + 3 * apart, fourth)


@routine
def begin_backward(job, blocks, step, camera, left, top, channels, spare):
    """Start a tile for the sweep: transmittance, S, and the gradients of alpha and of the channels.

    Background and division of the expected depth move a part of the channels' gradients to that of alpha.
    """
    start_transmittance(job, blocks, step, left, top)
    drawn = job.channels + job.with_depth
    for row in range(COLUMNS):
        y = top + BLOCK * row
        if y >= job.height:
            break
        for half in range(2):
            x = left + LANES * half
            if x >= job.width:
                break
            first = blocks + (COLUMNS * BLOCK * half + row) * step
            read_alpha(job, first, step, camera, x, y, drawn, spare)
            for k in range(drawn):
                read_channel(job, first, step, camera, x, y, drawn, k, spare)
            for quarter in range(BLOCK):
                at = first + quarter * COLUMNS * step
                alpha = load(spare + quarter * VECTOR_BYTES)
                store(at + VECTOR_BYTES, load(at + VECTOR_BYTES) + alpha * load(at + 2 * VECTOR_BYTES))
                for k in range(drawn, channels):
                    store(at + (3 + k) * VECTOR_BYTES, 0.0)


@helper
def picture_rows(job, camera, x, y, drawn, k):
    """Return the address of a pixel of the picture's plane k (k = drawn: alpha)."""
    return job.out + 4 * (job.out_width * ((camera * (drawn + 1) + k) * job.height + y) + x)


@routine
def read_alpha(job, first, step, camera, x, y, drawn, spare):
    """Read four blocks' alpha (to the spare memory) and its gradient; S starts at 0."""
    rows, columns, row = job.height - y, job.width - x, spare + 2 * BLOCK * VECTOR_BYTES
    source = picture_rows(job, camera, x, y, drawn, drawn)
    read_rows(source, 4 * job.out_width, 4, rows, LANES, row, spare, VECTOR_BYTES)
    source = job.g_alpha
    if source:
        source += 4 * (camera * job.ga_camera + y * job.ga_row + x * job.ga_column)
    read_rows(source, 4 * job.ga_row, 4 * job.ga_column, rows, columns, row, first + 2 * VECTOR_BYTES, COLUMNS * step)
    for quarter in range(BLOCK):
        store(first + quarter * COLUMNS * step + VECTOR_BYTES, 0.0)


@routine
def read_channel(job, first, step, camera, x, y, drawn, k, spare):
    """Read four blocks' gradient and picture of one channel."""
    rows, columns, row = job.height - y, job.width - x, spare + 2 * BLOCK * VECTOR_BYTES
    gradient, picture = (3 + k) * VECTOR_BYTES, spare + BLOCK * VECTOR_BYTES
    source = job.g_out
    if source:
        source += 4 * (camera * job.g_camera + y * job.g_row + x * job.g_column + k * job.g_channel)
    read_rows(source, 4 * job.g_row, 4 * job.g_column, rows, columns, row, first + gradient, COLUMNS * step)
    source = picture_rows(job, camera, x, y, drawn, k)
    read_rows(source, 4 * job.out_width, 4, rows, LANES, row, picture, VECTOR_BYTES)
    background = read_float(job.backgrounds + 4 * (drawn * camera + k))
    is_expected = job.expected and k == drawn - 1
    for quarter in range(BLOCK):
        at, offset = first + quarter * COLUMNS * step, quarter * VECTOR_BYTES
        g, value, alpha = load(at + gradient), load(picture + offset), load(spare + offset)
        behind, g_alpha = load(at + VECTOR_BYTES), load(at + 2 * VECTOR_BYTES)
        if is_expected:
            g = g / maximum(alpha, DEPTH_ALPHA_MIN)
            store(at + gradient, g)
            store(at + VECTOR_BYTES, behind + g * value * maximum(alpha, DEPTH_ALPHA_MIN))
            store(at + 2 * VECTOR_BYTES, g_alpha - select(alpha > DEPTH_ALPHA_MIN, g * value, 0.0))
        else:
            store(at + VECTOR_BYTES, behind + g * (value - (1.0 - alpha) * background))
            store(at + 2 * VECTOR_BYTES, g_alpha - g * background)


def spare_bytes(channels: int) -> int:
    """Return the working memory of a thread: a tile's blocks, their corners, nine vectors."""
    blocks = max(forward_block_bytes(channels), backward_block_bytes(channels)) * BLOCKS
    return blocks + 8 * BLOCKS + (2 * BLOCK + 1) * VECTOR_BYTES
