"""Radiance .hdr files: one shared exponent and three mantissas of 8 bits a pixel."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError

_EXPONENT_BIAS = 128
_RUN_MIN_WIDTH, _RUN_MAX_WIDTH = 8, 32767
"""Widths that the run-length encoding of Radiance 2.0 can have."""
_MAGIC = (b"#?RADIANCE", b"#?RGBE")


def encode(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return [..., 4] bytes of non-negative linear colours [..., 3]; the largest channel is right to 1/256.

    Colours below 1e-38 become black, those above the largest exponent the brightest there is.
    """
    largest = image.max(axis=-1)
    _, exponent = np.frexp(largest)
    # Rounding may lift the mantissa to 256; it then needs the next exponent.
    exponent = exponent + (np.rint(np.ldexp(largest, 8 - exponent)) > 255)
    exponent = np.minimum(exponent, 127)
    mantissa = np.rint(np.ldexp(image, (8 - exponent)[..., None])).clip(0, 255)
    bits = np.concatenate([mantissa, (exponent + _EXPONENT_BIAS)[..., None]], axis=-1)
    is_black = (largest < 1e-38) | (exponent < 1 - _EXPONENT_BIAS)
    return np.where(is_black[..., None], 0, bits).astype(np.uint8)


def decode(bits: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the linear colours [..., 3] of [..., 4] bytes: mantissa 2^(exponent - 136), as viewers read them."""
    exponent = bits[..., 3:].astype(np.int32)
    colours = np.ldexp(bits[..., :3].astype(np.float32), exponent - (_EXPONENT_BIAS + 8))
    return np.where(exponent == 0, np.float32(0), colours).astype(np.float32)


def pack(image: NDArray[np.float32]) -> bytes:
    """Return the file of a picture [H, W, 3], linear >= 0, in the run-length form that all readers know."""
    height, width = image.shape[:2]
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    bits = encode(image)
    if not _RUN_MIN_WIDTH <= width <= _RUN_MAX_WIDTH:
        return head + bits.tobytes()
    body = bytearray(head)
    for row in bits:
        body += bytes([2, 2, width >> 8, width & 255])
        for channel in range(4):
            values = row[:, channel].tobytes()
            for start in range(0, width, 128):
                piece = values[start : start + 128]
                body += bytes([len(piece)]) + piece
    return bytes(body)


def unpack(data: bytes, path: Path | str = "") -> NDArray[np.float32]:
    """Return the picture [H, W, 3], linear, of a file's content.

    Reads both run-length forms and plain pixels; EXPOSURE and COLORCORR lines are undone.
    Raises: AssetError if the file is not a Radiance picture, is cut off, or is turned or in XYZ.
    Source: G. Ward, Radiance file formats (the RGBE scan line encodings).
    """
    if not data.startswith(_MAGIC):
        raise AssetError(
            f"'{path}' is not a Radiance picture: it does not begin with '#?RADIANCE'. Give a .hdr file.", path
        )
    head, separator, rest = data.partition(b"\n\n")
    line, newline, body = rest.partition(b"\n")
    size = re.fullmatch(rb"-Y (\d+) \+X (\d+)\r?", line.strip())
    if not separator or not newline or size is None:
        raise AssetError(
            f"'{path}' has the size line {line[:40]!r}, but only '-Y height +X width' is read. Save it again, upright.",
            path,
        )
    if b"32-bit_rle_xyze" in head:
        raise AssetError(f"'{path}' holds XYZ colours, but only RGB is read. Save it as 32-bit_rle_rgbe.", path)
    height, width = int(size[1]), int(size[2])
    bits = np.empty((height, width, 4), dtype=np.uint8)
    place = 0
    try:
        for row in range(height):
            place = _scan_line(body, place, bits[row])
    except (IndexError, ValueError) as problem:
        raise AssetError(
            f"'{path}' is damaged: row {row} of {height} ends too early or overflows ({problem}). Get the file again.",
            path,
        ) from problem
    return decode(bits) / _exposure(head)


def _exposure(head: bytes) -> NDArray[np.float32]:
    """Return [3], what the colours of a file were multiplied with."""
    factor = np.ones(3, dtype=np.float32)
    for value in re.findall(rb"^EXPOSURE=\s*(\S+)", head, flags=re.MULTILINE):
        factor *= np.float32(value)
    for values in re.findall(rb"^COLORCORR=\s*(\S+)\s+(\S+)\s+(\S+)", head, flags=re.MULTILINE):
        factor *= np.array([float(value) for value in values], dtype=np.float32)
    return factor


def _scan_line(body: bytes, place: int, row: NDArray[np.uint8]) -> int:
    """Fill one row [W, 4] with the bytes from `place` on; return where the next row begins."""
    width = len(row)
    lead = body[place : place + 4]
    if len(lead) < 4:
        raise ValueError("no data is left")
    is_new = lead[0] == 2 and lead[1] == 2 and lead[2] < 128 and _RUN_MIN_WIDTH <= width <= _RUN_MAX_WIDTH
    if not is_new:
        return _old_scan_line(body, place, row)
    if (lead[2] << 8) + lead[3] != width:
        raise ValueError("the row has another width than the picture")
    place += 4
    for channel in range(4):
        column = 0
        while column < width:
            count = body[place]
            is_run, length = count > 128, count - 128 if count > 128 else count
            used = 1 if is_run else length
            piece = np.frombuffer(body, np.uint8, used, place + 1)
            if length == 0 or column + length > width:
                raise ValueError("a run is longer than the row")
            row[column : column + length, channel] = piece
            column, place = column + length, place + 1 + used
    return place


def _old_scan_line(body: bytes, place: int, row: NDArray[np.uint8]) -> int:
    """Fill one row of plain pixels, among which (1, 1, 1, n) repeats the pixel before n times."""
    column, shift = 0, 0
    while column < len(row):
        pixel = np.frombuffer(body, np.uint8, 4, place)
        place += 4
        if column and (pixel[:3] == 1).all():
            length = int(pixel[3]) << shift
            if column + length > len(row):
                raise ValueError("a run is longer than the row")
            row[column : column + length] = row[column - 1]
            column, shift = column + length, shift + 8
        else:
            row[column] = pixel
            column, shift = column + 1, 0
    return place
