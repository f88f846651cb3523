"""The numbers inside an `.spz` file: splats to bytes and back, without the container."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sds3d.export.splat_files.checks import as_bytes, logits_of_bytes, unit_quats
from sds3d.export.splats import Splats

Bytes = NDArray[np.uint8]

LARGEST_DEGREE, LARGEST_BITS = 4, 24
USUAL_BITS = 12
"""Fractional bits of a coordinate that every writer uses: steps of 1/4096, coordinates below 2048."""
FARTHEST = 2.0**22
"""Coordinates have 24 bits, one for the sign, and at least one for the fraction."""
_COLOUR_SCALE = 0.15 * 255.0
_SH_BITS = (5, 4)
"""Bits kept of harmonics of degree 1 and of higher degrees: the format's defaults. The rest of the byte is 0."""
_COUNTS = (0, 3, 8, 15, 24)


def degree_of(splats: Splats) -> int:
    """Return the degree of the harmonics, 0 to 3."""
    return _COUNTS.index(0 if splats.shN is None else splats.shN.shape[1])


def fractional_bits(means: NDArray[np.float32]) -> int | None:
    """Return how many bits of the fraction of a coordinate are kept: 12, or fewer for far centres, None if too far."""
    farthest = float(np.abs(means).max(initial=0.0))
    return next((bits for bits in range(USUAL_BITS, 0, -1) if round(farthest * 2**bits) < 2**23), None)


def array_sizes(count: int, degree: int, version: int) -> list[int]:
    """Return the bytes of positions, opacities, colours, scales, rotations and harmonics, in the order of the file."""
    return [9 * count, count, 3 * count, 3 * count, (4 if version >= 3 else 3) * count, 3 * _COUNTS[degree] * count]


def split(data: bytes, sizes: Sequence[int]) -> list[Bytes]:
    """Cut `data` into arrays of the given sizes."""
    return np.split(np.frombuffer(data, np.uint8, sum(sizes)), np.cumsum(sizes)[:-1])


def pack(splats: Splats, bits: int) -> list[bytes]:
    """Return the six arrays of a version 3 file (the last may be empty).

    Largest errors: positions half a step of 2^-bits; opacity 1/510; colour coefficient 1/76.5, that is sRGB 0.0037,
    within [-0.44, 1.44]; log scales 1/32 within [-10, 5.94] (sizes wrong by 3 %); the three smaller components of the
    unit quaternion 0.0007; harmonics 1/32 (degree 1) and 1/16 (others) within [-1, 0.992]. What lies outside is
    clipped. The sign of a quaternion is free and may change.
    """
    fixed = np.floor(splats.means.astype(np.float64) * 2**bits + 0.5).astype("<i4")
    positions = fixed[..., None].view(np.uint8)[..., :3]  # the low three of four little-endian bytes
    arrays = [
        positions,
        as_bytes(splats.opacities * 255.0),
        as_bytes(splats.sh0 * _COLOUR_SCALE + 127.5),
        as_bytes((splats.log_scales + 10.0) * 16.0),
        pack_smallest_three(unit_quats(splats.quats)),
        _pack_harmonics(splats),
    ]
    return [np.ascontiguousarray(array).tobytes() for array in arrays]


def unpack(arrays: Sequence[Bytes], degree: int, bits: int) -> Splats:
    """Return the splats of the six arrays of a file, in the file's frame. Harmonics of degree 4 are dropped."""
    positions, opacities, colours, scales, rotations, harmonics = arrays
    count, kept = len(opacities), min(degree, 3)
    # Three bytes become the upper ones of a 32-bit number, so that the sign comes right, and are shifted back.
    wide = np.zeros((count, 3, 4), np.uint8)
    wide[..., 1:] = positions.reshape(count, 3, 3)
    fixed = wide.view("<i4")[..., 0] >> 8
    rest = harmonics.reshape(count, _COUNTS[degree], 3)[:, : _COUNTS[kept]].astype(np.float64)
    is_newer = len(rotations) == 4 * count
    return Splats.of(
        fixed / 2.0**bits,
        unpack_smallest_three(rotations.reshape(count, 4))
        if is_newer
        else unpack_first_three(rotations.reshape(count, 3)),
        scales.reshape(count, 3) / 16.0 - 10.0,
        logits_of_bytes(opacities),
        (colours.reshape(count, 3) - 127.5) / _COLOUR_SCALE,
        (rest - 128.0) / 128.0 if degree else None,
    )


def pack_smallest_three(quats: NDArray[np.float64]) -> Bytes:
    """Return unit wxyz quaternions [N, 4] as [N, 4] bytes: two bits name the largest component in the order xyzw, ten
    bits (sign, 9 bits of size in units of sqrt(1/2) / 511) hold each of the others; its sign is made positive."""
    xyzw = quats[:, [1, 2, 3, 0]]
    largest = np.abs(xyzw).argmax(axis=1)
    sign = np.where(xyzw[np.arange(len(xyzw)), largest] < 0.0, -1.0, 1.0)
    word = largest.astype(np.uint32)
    for axis in range(4):
        value = xyzw[:, axis] * sign
        size = np.minimum(np.floor(np.abs(value) * (511.0 * np.sqrt(2.0)) + 0.5), 511.0).astype(np.uint32)
        ten = (value < 0.0).astype(np.uint32) << 9 | size
        word = np.where(largest == axis, word, word << np.uint32(10) | ten)
    return word.astype("<u4")[:, None].view(np.uint8)


def unpack_smallest_three(packed: Bytes) -> NDArray[np.float64]:
    """Return the unit wxyz quaternions [N, 4] of `pack_smallest_three`."""
    word = np.ascontiguousarray(packed).view("<u4")[:, 0].astype(np.uint32)
    largest = word >> np.uint32(30)
    xyzw = np.zeros((len(word), 4))
    for axis in range(3, -1, -1):
        stored = largest != axis
        value = (word & np.uint32(511)) / (511.0 * np.sqrt(2.0))
        value = np.where(word & np.uint32(512), -value, value)
        xyzw[stored, axis] = value[stored]
        word = np.where(stored, word >> np.uint32(10), word)
    missing = np.sqrt(np.maximum(1.0 - (xyzw**2).sum(axis=1), 0.0))
    xyzw[np.arange(len(word)), largest] = missing
    return xyzw[:, [3, 0, 1, 2]]


def unpack_first_three(packed: Bytes) -> NDArray[np.float64]:
    """Return the wxyz quaternions of version 2: x, y, z as bytes / 127.5 - 1, w >= 0 follows."""
    xyz = packed.astype(np.float64) / 127.5 - 1.0
    w = np.sqrt(np.maximum(1.0 - (xyz**2).sum(axis=1, keepdims=True), 0.0))
    return unit_quats(np.concatenate([w, xyz], axis=1))


def _pack_harmonics(splats: Splats) -> Bytes:
    """Return harmonics [N, K, 3] as bytes 128 x + 128, rounded to the multiples that the kept bits allow."""
    if splats.shN is None:
        return np.zeros(0, np.uint8)
    steps = np.array([2 ** (8 - _SH_BITS[0])] * 3 + [2 ** (8 - _SH_BITS[1])] * max(splats.shN.shape[1] - 3, 0))
    step = steps[: splats.shN.shape[1], None]
    nearest = np.floor((128.0 * splats.shN.astype(np.float64) + 128.0) / step + 0.5) * step
    # 256 does not fit a byte and becomes 255, as in the format's own library.
    return np.clip(nearest, 0, 255).astype(np.uint8)
