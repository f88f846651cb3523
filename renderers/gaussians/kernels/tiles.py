"""From projection records to tile lists: order of depth, render records, and which blocks of which tiles a splat meets."""

from __future__ import annotations

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.gaussians.kernels.layout import (
    BLOCK,
    COLUMNS,
    ENTRY_BYTES,
    FEATURES,
    LOG2_ALPHA_MIN,
    SLOTS_BITS,
    TAKEN_CHUNKS,
    TAKEN_LISTS,
    TILE,
)
from renderers.gaussians.kernels.memory import (
    fetch_and_add,
    load,
    prefetch,
    read_float,
    read_int,
    read_long,
    store,
    write_float,
    write_int,
    write_long,
)
from renderers.gaussians.kernels.projection import AT, LEVEL_FACTOR, LEVEL_SLACK, RECORD_BYTES
from renderers.gaussians.kernels.shuffles import tile_masks
from renderers.gaussians.kernels.simd import (
    maximum,
    minimum,
    multiply_add,
    ramp,
    round_down,
    round_up,
    select,
    square_root,
)

AT_U, AT_V, AT_DEPTH, AT_RADIUS_X, AT_RADIUS_Y = AT["u"], AT["v"], AT["depth"], AT["radius_x"], AT["radius_y"]
AT_HALF_X, AT_HALF_Y, AT_SUMMIT = AT["half_x"], AT["half_y"], AT["summit"]
AT_LOG2_OPACITY, AT_SLOPE, AT_SHEAR, AT_REACH = AT["log2_opacity"], AT["slope"], AT["shear"], AT["reach"]
DIGIT_BITS = 12
DIGITS = 1 << DIGIT_BITS
AHEAD = 16
"""Records that are asked for before they are needed: in order of depth they lie anywhere in memory."""


def key_bytes(count: int) -> int:
    """Return the sorting space a worker needs for `count` Gaussians."""
    return 16 * count + 8 * DIGITS


@kernel
def sort(jobs, first, step):
    """Order the visible Gaussians of every step-th camera by depth, ties by index; return a limit of their entries.

    (What a Gaussian adds to the limit waits at its place of `rank`, for memory is read in order here.)
    """
    job = jobs[0]
    count, total = job.count, 0
    source = job.keys + first * (16 * count + 8 * DIGITS)
    for camera in range(first, job.cameras, step):
        visible, lowest, highest = 0, 0xFFFFFFFF, 0
        ranks = job.rank + 4 * camera * job.count
        for g in range(count):
            record = job.records + (camera * job.padded + g) * RECORD_BYTES
            radius_x = read_int(record + AT_RADIUS_X)
            write_int(ranks + 4 * g, -1)
            if radius_x > 0:
                bits = read_int(record + AT_DEPTH) & 0xFFFFFFFF
                key = (bits ^ 0xFFFFFFFF) if bits >> 31 else (bits | 0x80000000)  # unsigned order is float order
                lowest, highest = min(lowest, key), max(highest, key)
                write_long(source + 8 * visible, (key << 32) | g)
                visible += 1
                across = tiles_across(read_float(record + AT_U), radius_x, job.width)
                down = tiles_across(read_float(record + AT_V), read_int(record + AT_RADIUS_Y), job.height)
                write_int(ranks + 4 * g, across * down)
        write_long(job.visible + 8 * camera, visible)
        ordered = radix(source, source + 8 * count, source + 16 * count, visible, lowest, highest)
        for chunk in range(job.chunks):
            bound = 2  # `append` writes before it knows whether it counts
            for i in range(visible * chunk // job.chunks, visible * (chunk + 1) // job.chunks):
                g = read_long(ordered + 8 * i) & 0xFFFFFFFF
                bound += read_int(ranks + 4 * g)
                write_int(job.order + 4 * (camera * count + i), g)
                write_int(ranks + 4 * g, i)
            write_long(job.bounds + 8 * (camera * job.chunks + chunk), bound)
            total += bound
    return total


@helper
def tiles_across(centre, radius, size):
    """Return how many tiles the box of a splat meets along one axis, at most."""
    low = int(min(max(centre - radius, 0.0), size - 1.0))
    high = int(min(max(centre + radius, 0.0), size - 1.0))
    return (high >> 5) - (low >> 5) + 1


@routine
def radix(source, target, counts, count, lowest, highest):
    """Sort int64 by their upper halves, which lie in lowest .. highest, stably; return where the result is."""
    spread, shift = highest - lowest, 0
    while count > 1 and spread >> shift:
        for i in range(DIGITS):
            write_long(counts + 8 * i, 0)
        for i in range(count):
            cursor = counts + 8 * (digit(read_long(source + 8 * i), lowest, shift))
            write_long(cursor, read_long(cursor) + 1)
        position = 0
        for i in range(DIGITS):
            number = read_long(counts + 8 * i)
            write_long(counts + 8 * i, position)
            position += number
        for i in range(count):
            value = read_long(source + 8 * i)
            cursor = counts + 8 * digit(value, lowest, shift)
            position = read_long(cursor)
            write_long(cursor, position + 1)
            write_long(target + 8 * position, value)
        source, target = target, source
        shift += DIGIT_BITS
    return source


@helper
def digit(value, lowest, shift):
    """Return twelve bits of the upper half of an int64 above `lowest`."""
    return ((((value >> 32) & 0xFFFFFFFF) - lowest) >> shift) & (DIGITS - 1)


@kernel
def fill(jobs, first, step):
    """Write the render records and tile entries of chunks of all cameras, until all are taken."""
    job = jobs[0]
    item = fetch_and_add(job, TAKEN_CHUNKS, 1)
    while item < job.cameras * job.chunks:
        fill_chunk(job, item)
        item = fetch_and_add(job, TAKEN_CHUNKS, 1)


@helper
def stretch_of(job, item):
    """Return camera and chunk of an item, its first Gaussian in order of depth, the last's successor, and the place of
    its first entry."""
    camera, chunk, base = item // job.chunks, item % job.chunks, 0
    visible = read_long(job.visible + 8 * camera)
    for other in range(item):
        base += read_long(job.bounds + 8 * other)
    return camera, chunk, visible * chunk // job.chunks, visible * (chunk + 1) // job.chunks, base


@helper
def fill_chunk(job, item):
    """Write the render records and tile entries of one chunk, and count them by tile."""
    camera, _, begin, end, cursor = stretch_of(job, item)
    size = 8 * (job.tiles_x * job.tiles_y + 1)
    numbers = job.numbers + size * item
    for at in range(numbers, numbers + size, 8):
        write_long(at, 0)
    order = job.order + 4 * camera * job.count
    records = job.records + camera * job.padded * RECORD_BYTES
    features = job.features + camera * job.feature_stride
    starts = job.starts + 8 * camera * job.count
    for i in range(begin, end):
        g = read_int(order + 4 * min(i + AHEAD, end - 1))
        prefetch(records + g * RECORD_BYTES)
        prefetch(features + 4 * g * job.channels)
        g = read_int(order + 4 * i)
        record = records + g * RECORD_BYTES
        render = job.renders + (camera * job.count + i) * job.render_bytes
        write_render(job, features + 4 * g * job.channels, record, render)
        after = write_entries(job, record, i, numbers, cursor)
        write_long(starts + 8 * i, (cursor << SLOTS_BITS) | (after - cursor))
        cursor = after


@routine
def write_render(job, features, record, render):
    """Write what compositing needs of a Gaussian side by side: half its projection record, then its channels."""
    store(render, load(record))
    for k in range(job.channels):
        write_float(render + FEATURES + 4 * k, read_float(features + 4 * k))
    end = job.channels
    if job.with_depth:
        write_float(render + FEATURES + 4 * end, read_float(record + AT_DEPTH))
        end += 1
    for k in range(end, job.compiled_channels):
        write_float(render + FEATURES + 4 * k, 0.0)


@routine
def write_entries(job, record, index, histogram, cursor):
    """Append the tile entries of one splat at `cursor` and count them; return the new cursor.

    Sixteen columns of blocks (two tiles) are treated at once: in each, the splat's ellipse covers one interval of rows,
    whose ends lie at the ellipse's own top and bottom or at an edge of the column.
    """
    u, v = read_float(record + AT_U), read_float(record + AT_V)
    half_x, half_y = read_float(record + AT_HALF_X), read_float(record + AT_HALF_Y)
    left, right = max(u - half_x - 0.5, 0.0), min(u + half_x - 0.5, job.width - 1.0)
    top, bottom = max(v - half_y - 0.5, 0.0), min(v + half_y - 0.5, job.height - 1.0)
    if left > right or top > bottom:
        return cursor
    reach, inverse_slope = read_float(record + AT_REACH), 1.0 / read_float(record + AT_SLOPE)
    level = (read_float(record + AT_LOG2_OPACITY) - LOG2_ALPHA_MIN) * LEVEL_FACTOR + LEVEL_SLACK
    shift = -read_float(record + AT_SHEAR) * inverse_slope  # dy / dx of the line of largest alpha in each column
    summit = read_float(record + AT_SUMMIT)
    for tile_x in range(int(left) >> 5, (int(right) >> 5) + 1, 2):
        pixel = BLOCK * ramp() + TILE * tile_x
        low, high = maximum(pixel + (0.5 - u), -half_x), minimum(pixel + (BLOCK - 0.5 - u), half_x)
        at_bottom, at_top = minimum(maximum(low, summit), high), minimum(maximum(low, -summit), high)
        down = square_root(maximum(multiply_add(at_bottom * at_bottom, -reach, level), 0.0))
        up = square_root(maximum(multiply_add(at_top * at_top, -reach, level), 0.0))
        first = multiply_add(shift, at_top, multiply_add(up, -inverse_slope, v - 0.5))
        last = multiply_add(shift, at_bottom, multiply_add(down, inverse_slope, v - 0.5))
        first, last = maximum(round_up(first), 0.0), minimum(round_down(last), job.height - 1.0)
        is_met = (low <= high) & (first <= last) & (pixel < job.width)
        first = select(is_met, round_down(first * (1.0 / BLOCK)), 0.0)
        last = select(is_met, round_down(last * (1.0 / BLOCK)), -1.0)
        for tile_y in range(int(top) >> 5, (int(bottom) >> 5) + 1):
            left_mask, right_mask = tile_masks(first - COLUMNS * tile_y, last - COLUMNS * tile_y)
            tile = tile_y * job.tiles_x + tile_x
            cursor = append(job.entries, cursor, left_mask, index, tile, histogram)
            cursor = append(job.entries, cursor, right_mask, index, tile + 1, histogram)
    return cursor


@helper
def append(entries, cursor, mask, index, tile, histogram):
    """Write an entry, and step beyond it and count it unless its mask is empty (without a branch: they mispredict)."""
    at = entries + ENTRY_BYTES * cursor
    write_long(at, mask)
    write_int(at + 8, index)
    write_int(at + 12, tile)
    is_used = 1 if mask != 0 else 0
    write_long(histogram + 8 * tile, read_long(histogram + 8 * tile) + is_used)
    return cursor + is_used


@kernel
def distribute(jobs, first, step):
    """List the entries of chunks of all cameras by tile, stably, until all are taken: lists are in order of depth."""
    job = jobs[0]
    item = fetch_and_add(job, TAKEN_LISTS, 1)
    while item < job.cameras * job.chunks:
        end = place_chunk(job, item)
        list_chunk(job, item, end)
        item = fetch_and_add(job, TAKEN_LISTS, 1)


@routine
def place_chunk(job, item):
    """Write where in each tile's list the entries of a chunk go, behind those of chunks before it; return the end of the
    chunk's entries. The first chunk of a camera also writes where the lists begin."""
    tiles, (camera, chunk, _, _, cursor) = job.tiles_x * job.tiles_y, stretch_of(job, item)
    size, first = 8 * (tiles + 1), camera * job.chunks
    numbers, places, begins = job.numbers + size * first, job.places + size * item, job.begins + size * camera
    position = stretch_of(job, first)[4]
    for tile in range(tiles + 1):
        if chunk == 0:
            write_long(begins + 8 * tile, position)
        for other in range(job.chunks):
            number = read_long(numbers + size * other + 8 * tile)
            if other == chunk:
                write_long(places + 8 * tile, position)
                cursor += number
            position += number
    return cursor


@routine
def list_chunk(job, item, end):
    """Copy the entries of a chunk to their places in the tile lists."""
    places = job.places + 8 * (job.tiles_x * job.tiles_y + 1) * item
    for slot in range(stretch_of(job, item)[4], end):
        entry = job.entries + ENTRY_BYTES * slot
        place = places + 8 * read_int(entry + 12)
        position = read_long(place)
        write_long(place, position + 1)
        listed = job.lists + ENTRY_BYTES * position
        write_long(listed, read_long(entry))
        write_int(listed + 8, read_int(entry + 8))
        write_int(listed + 12, slot)
