"""Sizes and records shared by the kernels that bin and composite.

A tile is 32 x 32 pixels, 8 x 8 blocks of 4 x 4: sixteen pixels, one vector. Block j * 8 + i is in column j and row i of its
tile, and bit j * 8 + i of an int64 stands for it.
"""

from __future__ import annotations

import math

from renderers.gaussians import constants
from renderers.gaussians.kernels.compiling import job_type

TILE, BLOCK, COLUMNS = 32, 4, 8
"""Pixels a tile and a block are wide, and blocks in a tile's row."""
U, V, SLOPE, SHEAR, REACH, LOG2_OPACITY, FEATURES = 0, 4, 8, 12, 16, 20, 32
"""Byte offsets in a render record: the first half of a projection record, then the features."""
MOMENTS = 8
"""Floats before the features in a gradient slot: sums of v, v dx, v s, v dx^2, v dx s, v s^2, |du|, |dv|."""
ENTRY_BYTES = 16
"""A tile entry: the mask of its blocks (int64), its render record (int32), its slot (int32; before sorting: its tile)."""

LOG2_ALPHA_MIN = math.log2(constants.ALPHA_MIN)
ALPHA_MAX = constants.ALPHA_MAX
TRANSMITTANCE_MIN = constants.TRANSMITTANCE_MIN
DEPTH_ALPHA_MIN = constants.DEPTH_ALPHA_MIN

JOB = job_type(
    "count padded cameras width height tiles_x tiles_y chunks feature_stride channels compiled_channels with_depth "
    "expected out_width render_bytes slot_bytes spare_bytes "
    "records features backgrounds out order rank visible bounds starts begins numbers places renders keys "
    "lists entries spare slots g_out g_camera g_row g_column g_channel g_alpha ga_camera ga_row ga_column ga_channel "
    "d_means2d d_conics d_opacities d_features d_depths d_absolute "
    "taken_chunks taken_lists taken_tiles taken_sweeps taken_blocks"
)
"""Addresses and sizes of one compositing call for C cameras and N Gaussians.

records [C, padded, 16]; features [N, channels] or, feature_stride bytes a camera, [C, N, channels]; with_depth adds depth
as the last channel, which `expected` divides by alpha. order, rank [C, N] int32 (rank -1: not visible); visible [C]
int64. A camera's visible Gaussians, in order of depth, are binned in `chunks` parts: bounds [C, chunks] int64 (a limit
for the number of a part's entries), numbers, places [C, chunks, tiles + 1] int64 (entries by tile, and where the next
one is listed). starts [C, N] int64 (first slot of a render record, and in SLOTS_BITS bits their number); entries, lists
(tile entries in order of depth, and in order of tiles); begins [C, tiles + 1] int64 (where in lists a tile begins);
renders [C, N] render records; keys: sorting space a worker; out [C, channels + 1, H, out_width], alpha last; spare:
planes of a worker; g_*: gradients of image and alpha with their strides in floats, 0 where there is none; d_*: results;
taken_*: the first work of a stage that no thread has taken yet (chunks, chunks' lists, tiles, tiles again for the
gradient, blocks of sixteen Gaussians), 0 before a call.
"""
TAKEN_CHUNKS, TAKEN_LISTS, TAKEN_TILES, TAKEN_SWEEPS, TAKEN_BLOCKS = (
    JOB.fields[f"taken_{work}"][1] for work in ("chunks", "lists", "tiles", "sweeps", "blocks")
)
SLOTS_BITS = 24
"""Bits that hold how many slots a render record has: at most one a tile."""


def forward_block_bytes(channels: int) -> int:
    """Return the size of a block while a tile is drawn: transmittance, then its channels.

    A block's vectors lie together: processors take a load for dependent on a recent store whose address has the same last
    twelve bits, which planes of 4096 bytes would make the rule.
    """
    return 64 * (1 + channels)


def backward_block_bytes(channels: int) -> int:
    """Return the size of a block in the sweep for the gradient: transmittance, S, and the gradients of alpha and of the
    channels."""
    return 64 * (3 + channels)


def feature_floats(channels: int) -> int:
    """Return for how many channels a kernel is compiled that draws `channels`: few variants, little waste."""
    for size in (3, 4, 8):
        if channels <= size:
            return size
    return -(-channels // 8) * 8


def record_bytes(floats: int) -> int:
    """Return the size of a render record: one cache line for up to eight features."""
    return FEATURES + 4 * max(8, floats)


def slot_bytes(floats: int) -> int:
    """Return the size of a gradient slot: whole vectors."""
    return -(-4 * (MOMENTS + floats) // 64) * 64
