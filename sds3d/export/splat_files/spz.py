"""Niantic's `.spz`: splats in 20 bytes and less, about a tenth of a PLY file."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export import atomic
from sds3d.export.splat_files import spz_packing as packing
from sds3d.export.splat_files.checks import check_finite, read_bytes, refused
from sds3d.export.splats import Splats
from sds3d.export.turn import turned

MAGIC = 0x5053474E
"""The bytes "NGSP"."""
WRITTEN_VERSION = 3
_GZIP_HEADER, _ZSTD_HEADER = struct.Struct("<IIIBBBB"), struct.Struct("<IIIBBBBI12x")
_HAS_EXTENSIONS = 0x2
_COORDINATE_SYSTEM, _RIGHT_UP_BACK = 0xADBE0003, 4
"""Adobe's extension that names another frame than the usual one, and the number of the usual one."""
_LARGEST_RATIO = 1032
"""Deflate never packs better than this: more positions than that are a lie that would cost all memory."""
_NEEDED = "an .spz file of version 2, 3 or 4"


def write(path: Path | str, splats: Splats) -> Path:
    """Write `splats` as SPZ version 3 (gzip, no time stamp: equal splats give equal bytes) and return the path.

    What is lost is written at `spz_packing.pack`. The format's frame is that of OpenGL (right, up, back), so splats and
    their harmonics are turned to +Y up with the front to +Z, as in our GLB files.

    Source: the format's description and the behaviour of its library, github.com/nianticlabs/spz (v3).
    Raises: AssetError if a value is not finite or a position is too far out, or the file cannot be written.
    """
    check_finite(splats, path)
    bits = packing.fractional_bits(splats.means)
    if bits is None:
        raise AssetError(
            f"'{path}' was not written: a centre lies {np.abs(splats.means).max():g} from the origin, but .spz holds "
            f"up to {packing.FARTHEST:g}. Remove far floaters, or export ply.",
            path,
        )
    degree = packing.degree_of(splats)
    header = _GZIP_HEADER.pack(MAGIC, WRITTEN_VERSION, len(splats), degree, bits, 0, 0)
    body = packing.pack(turned(splats, WORLD_TO_GLTF), bits)
    return atomic.write_bytes(path, gzip.compress(header + b"".join(body), compresslevel=9, mtime=0))


def read(path: Path | str) -> Splats:
    """Read an SPZ file of version 2 or 3 (gzip) or 4 (Zstandard) into our frame.

    Raises: AssetError if the file is missing, broken, cut short, of another version, in another frame than the format's
    own, or of version 4 while no Zstandard package is installed.
    Limits: harmonics of degree 4 are dropped; version 1 was never released and is refused.
    """
    data = read_bytes(path, ".spz")
    if data[:2] == b"\x1f\x8b":
        splats = _read_gzip(data, path)
    elif data[:4] == b"NGSP":
        splats = _read_zstd(data, path)
    else:
        raise refused(path, f"it begins with {data[:4]!r}, neither gzip nor 'NGSP'", _NEEDED)
    return turned(splats, np.array(WORLD_TO_GLTF).T)


def _read_gzip(data: bytes, path: Path | str) -> Splats:
    """Read versions 2 and 3: header and all arrays in one gzip stream, extensions behind them."""
    stream = zlib.decompressobj(31)
    try:
        head = stream.decompress(data, _GZIP_HEADER.size)
        if len(head) < _GZIP_HEADER.size:
            raise refused(path, "it ends within its header", _NEEDED)
        magic, version, count, degree, bits, flags, _ = _GZIP_HEADER.unpack(head)
        if magic != MAGIC:
            raise refused(path, "what is packed in it is not an .spz header", _NEEDED)
        if version not in (2, 3):
            raise refused(path, f"its version is {version}", _NEEDED)
        sizes = _sizes(path, count, degree, bits, version, len(data))
        body = stream.decompress(stream.unconsumed_tail, sum(sizes)) if sum(sizes) else b""
        rest = stream.decompress(stream.unconsumed_tail, 1 << 20)
    except zlib.error as error:
        raise refused(path, f"its gzip stream is broken ({error})", _NEEDED) from error
    if len(body) < sum(sizes) or not stream.eof:
        raise refused(
            path, f"it is cut short: {len(body)} bytes of {count} Gaussians are there, {sum(sizes)} are needed", _NEEDED
        )
    if flags & _HAS_EXTENSIONS:
        _check_frame(rest, path)
    return packing.unpack(packing.split(body, sizes), degree, bits)


def _read_zstd(data: bytes, path: Path | str) -> Splats:
    """Read version 4: a plain header, extensions, a table of sizes, then one Zstandard stream an array."""
    if len(data) < _ZSTD_HEADER.size:
        raise refused(path, "it ends within its header", _NEEDED)
    _, version, count, degree, bits, flags, streams, table = _ZSTD_HEADER.unpack_from(data)
    if version != 4:
        raise refused(path, f"its version is {version}", _NEEDED)
    sizes = _sizes(path, count, degree, bits, version, len(data))
    wanted = [size for size in sizes if size]
    start = table + 16 * streams
    if table < _ZSTD_HEADER.size or start > len(data) or streams != len(wanted):
        raise refused(path, "its table of arrays does not fit its header", _NEEDED)
    if flags & _HAS_EXTENSIONS:
        _check_frame(data[_ZSTD_HEADER.size : table], path)
    chunks = []
    for index, size in enumerate(wanted):
        packed, plain = struct.unpack_from("<QQ", data, table + 16 * index)
        if plain != size or start + packed > len(data):
            raise refused(path, f"it is cut short or its array {index} has a wrong size", _NEEDED)
        chunks.append(_unpack_zstd(data[start : start + packed], size, path))
        start += packed
    return packing.unpack(packing.split(b"".join(chunks), sizes), degree, bits)


def _unpack_zstd(data: bytes, size: int, path: Path | str) -> bytes:
    """Return `size` unpacked bytes; needs the package zstandard, which nothing else here needs."""
    try:
        import zstandard
    except ImportError as error:
        raise AssetError(
            f"'{path}' is of .spz version 4, which is packed with Zstandard, and no package here unpacks that. "
            "Run 'pip install zstandard', or save the file as version 3 or as ply.",
            path,
        ) from error
    try:
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise refused(path, f"a Zstandard stream in it is broken ({error})", _NEEDED) from error
    if len(plain) != size:
        raise refused(path, f"an array in it has {len(plain)} bytes instead of {size}", _NEEDED)
    return bytes(plain)


def _sizes(path: Path | str, count: int, degree: int, bits: int, version: int, file_size: int) -> list[int]:
    """Return the bytes of each array; refuse numbers that cannot be true."""
    if degree > packing.LARGEST_DEGREE or not 1 <= bits <= packing.LARGEST_BITS:
        raise refused(path, f"its header says degree {degree} and {bits} fractional bits", _NEEDED)
    sizes = packing.array_sizes(count, degree, version)
    if sizes[0] > _LARGEST_RATIO * file_size:
        raise refused(path, f"it claims {count} Gaussians, more than {file_size} bytes can hold", _NEEDED)
    return sizes


def _check_frame(records: bytes, path: Path | str) -> None:
    """Refuse a file whose extensions say that it is in another frame; other extensions change nothing here."""
    start = 0
    while start + 8 <= len(records):
        kind, size = struct.unpack_from("<II", records, start)
        value = records[start + 8 : start + 8 + size]
        if kind == _COORDINATE_SYSTEM and len(value) == 4 and struct.unpack("<I", value)[0] not in (0, _RIGHT_UP_BACK):
            raise refused(
                path,
                f"it is in the frame number {struct.unpack('<I', value)[0]} of the extension SPZ_ADOBE_coordinate_system",
                "one in the format's own frame (right, up, back)",
            )
        start += 8 + size
