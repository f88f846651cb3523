"""From gradient slots to the gradients of projected Gaussians: sums in a fixed order, whatever the number of threads."""

from __future__ import annotations

import math

from renderers.gaussians.kernels.compiling import helper, kernel, routine
from renderers.gaussians.kernels.layout import MOMENTS, SLOTS_BITS, TAKEN_BLOCKS
from renderers.gaussians.kernels.memory import (
    VECTOR_BYTES,
    fetch_and_add,
    load,
    prefetch,
    read_float,
    read_int,
    read_long,
    store,
    write_float,
)
from renderers.gaussians.kernels.projection import CHUNK, FIELDS, RECORD_BYTES
from renderers.gaussians.kernels.rows import out_at, put_rows
from renderers.gaussians.kernels.shuffles import load_transposed, store_interleaved
from renderers.gaussians.kernels.simd import LANES, select, splat

TWO_LN_2 = 2.0 * math.log(2.0)
OPACITY, SLOPE, SHEAR, REACH = (FIELDS.index(name) for name in ("opacity", "slope", "shear", "reach"))


@kernel
def reduce(jobs, first, step):
    """Write the gradients of blocks of sixteen Gaussians in all cameras, until all are taken."""
    job = jobs[0]
    sums = job.spare + first * job.spare_bytes
    blocks = (job.count + LANES - 1) // LANES
    chunk = fetch_and_add(job, TAKEN_BLOCKS, CHUNK)
    while chunk < blocks:
        for block in range(chunk, min(chunk + CHUNK, blocks)):
            for camera in range(job.cameras):
                reduce_block(job, camera, block, sums)
        chunk = fetch_and_add(job, TAKEN_BLOCKS, CHUNK)


@helper
def reduce_block(job, camera, block, sums):
    """Write the gradients of sixteen Gaussians in one camera, and ask for the slots of the next sixteen."""
    count = job.count
    visible = sums + LANES * job.slot_bytes
    rows, ahead = min(LANES, count - LANES * block), LANES * (block + 1)
    for lane in range(min(LANES, count - ahead)):
        prefetch_slots(job, camera, read_int(job.rank + 4 * (camera * count + ahead + lane)))
    for lane in range(rows):
        rank = read_int(job.rank + 4 * (camera * count + LANES * block + lane))
        write_float(visible + 4 * lane, 1.0 if rank >= 0 else 0.0)
        add_slots(job, camera, rank, sums + lane * job.slot_bytes)
        write_features(job, camera, LANES * block + lane, sums + lane * job.slot_bytes)
    write_moments(job, camera, block, rows, sums, load(visible) > 0.5, visible + VECTOR_BYTES)


@routine
def prefetch_slots(job, camera, rank):
    """Ask for the first slots of a render record: they lie anywhere in memory."""
    if rank >= 0:
        slot = job.slots + job.slot_bytes * (read_long(job.starts + 8 * (camera * job.count + rank)) >> SLOTS_BITS)
        prefetch(slot)
        prefetch(slot + VECTOR_BYTES)


@routine
def add_slots(job, camera, rank, target):
    """Write the sum of the slots of one render record (zeros if rank < 0)."""
    begin, end = 0, 0
    if rank >= 0:
        packed = read_long(job.starts + 8 * (camera * job.count + rank))
        begin = packed >> SLOTS_BITS
        end = begin + (packed & ((1 << SLOTS_BITS) - 1))
    for part in range(0, job.slot_bytes, VECTOR_BYTES):
        total = splat(0.0)
        for slot in range(begin, end):
            total = total + load(job.slots + slot * job.slot_bytes + part)
        store(target + part, total)


@routine
def write_features(job, camera, g, sums):
    """Write a Gaussian's feature gradients, added over cameras if they share the features, and that of its depth."""
    source = sums + 4 * MOMENTS
    target = job.d_features + camera * job.feature_stride + 4 * g * job.channels
    is_added = job.feature_stride == 0 and camera > 0
    for k in range(job.channels):
        value = read_float(source + 4 * k)
        if is_added:
            value += read_float(target + 4 * k)
        write_float(target + 4 * k, value)
    if job.with_depth:
        write_float(job.d_depths + 4 * (camera * job.count + g), read_float(source + 4 * job.channels))


@helper
def write_moments(job, camera, block, rows, sums, is_visible, spare):
    """Turn the moments of sixteen Gaussians in one camera into gradients of means2d, conics and opacities."""
    moments = load_transposed(sums, job.slot_bytes)
    record = load_transposed(job.records + (camera * job.padded + LANES * block) * RECORD_BYTES, RECORD_BYTES)
    m, mx, ms, mxx, mxs, mss = moments[0], moments[1], moments[2], moments[3], moments[4], moments[5]
    slope, shear = select(is_visible, record[SLOPE], 1.0), select(is_visible, record[SHEAR], 0.0)
    reach = select(is_visible, record[REACH], 0.0)
    offset = 4 * camera * job.count
    inverse = 1.0 / slope
    # dy = (s - shear dx) / slope
    xy = (mxs - shear * mxx) * inverse
    yy = (mss - shear * (mxs + mxs - shear * mxx)) * inverse * inverse
    store_interleaved(out_at(job.d_conics + 3 * offset, block, 3, rows, spare), (-0.5 * mxx, -1.0 * xy, -0.5 * yy))
    put_rows(job.d_conics + 3 * offset, block, 3, rows, spare)
    pair = (-TWO_LN_2 * (reach * mx + shear * ms), -TWO_LN_2 * slope * ms)
    store_interleaved(out_at(job.d_means2d + 2 * offset, block, 2, rows, spare), pair)
    put_rows(job.d_means2d + 2 * offset, block, 2, rows, spare)
    if job.d_absolute:
        pair = (TWO_LN_2 * moments[6], TWO_LN_2 * slope * moments[7])
        store_interleaved(out_at(job.d_absolute + 2 * offset, block, 2, rows, spare), pair)
        put_rows(job.d_absolute + 2 * offset, block, 2, rows, spare)
    store(out_at(job.d_opacities + offset, block, 1, rows, spare), m / select(is_visible, record[OPACITY], 1.0))
    put_rows(job.d_opacities + offset, block, 1, rows, spare)
