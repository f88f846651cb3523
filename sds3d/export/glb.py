"""The container of binary glTF 2.0: arrays and a JSON tree in one file."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError

VERTEX_BUFFER, INDEX_BUFFER = 34962, 34963
_LINEAR, _LINEAR_MIPMAP_LINEAR, _REPEAT = 9729, 9987, 10497
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
"""Numbers and words of the glTF 2.0 specification: buffer targets, filters and wrapping, component types, element types."""


@dataclass(frozen=True)
class Array:
    """One accessor to be written: float32 or uint32 `values`, the element `kind`, the buffer `target`."""

    values: NDArray[Any]
    kind: str
    target: int
    has_bounds: bool = False


def encode(
    arrays: Sequence[Array],
    primitive: Mapping[str, Any],
    extra: Mapping[str, Any] | None = None,
    pictures: Sequence[bytes] = (),
) -> bytes:
    """Return a binary glTF 2.0 file with one node "object" that has one mesh of one `primitive`.

    The accessors are numbered as `arrays`, the textures as `pictures` (PNG files); `extra` are further keys of the root.
    Every array has a buffer view of its own, because some readers ignore the byte offset of accessors.
    """
    views: list[dict[str, int]] = []
    accessors, chunks, start = [], [], 0
    codes = {np.dtype(name): code for code, name in _COMPONENTS.items()}
    for index, array in enumerate(arrays):
        values = array.values.astype(array.values.dtype.newbyteorder("<"))
        data = values.tobytes()
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(data), "target": array.target})
        accessor = {"bufferView": index, "componentType": codes[values.dtype], "count": len(values), "type": array.kind}
        if array.has_bounds and len(values):
            accessor |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        accessors.append(accessor)
        chunks.append(data)
        start += len(data)
    for data in pictures:
        views.append({"buffer": 0, "byteOffset": start, "byteLength": len(data)})
        chunks.append(data + bytes(-len(data) % 4))
        start += len(chunks[-1])
    tree: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "sds3d"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [dict(primitive)]}],
        "buffers": [{"byteLength": start}],
        "bufferViews": views,
        "accessors": accessors,
        **_textures(len(arrays), len(pictures)),
        **(extra or {}),
    }
    text = json.dumps(tree, separators=(",", ":")).encode("ascii")
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + start  # arrays are of 4-byte numbers, pictures were padded
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return b"".join([head, text, struct.pack("<I4s", start, b"BIN\0"), *chunks])


def _textures(first_view: int, count: int) -> dict[str, Any]:
    """Return the keys of the root that make a texture of each of `count` PNG files, from buffer view `first_view` on."""
    if count == 0:
        return {}
    return {
        "images": [{"bufferView": first_view + index, "mimeType": "image/png"} for index in range(count)],
        "samplers": [{"magFilter": _LINEAR, "minFilter": _LINEAR_MIPMAP_LINEAR, "wrapS": _REPEAT, "wrapT": _REPEAT}],
        "textures": [{"sampler": 0, "source": index} for index in range(count)],
    }


def decode(data: bytes, path: Path | str) -> tuple[dict[str, Any], bytes]:
    """Return the JSON tree and the binary chunk of a GLB file (b"" if it has none).

    Raises: AssetError if the file is none, of another version, or cut short.
    """
    if len(data) < 20 or data[:4] != b"glTF" or struct.unpack_from("<I", data, 4)[0] != 2:
        raise broken(path, "it does not begin as binary glTF 2.0 does")
    size, kind = struct.unpack_from("<I4s", data, 12)
    if kind != b"JSON" or 20 + size > len(data):
        raise broken(path, "it is cut short or has no JSON chunk")
    try:
        tree = json.loads(data[20 : 20 + size])
    except ValueError as error:
        raise broken(path, f"its JSON chunk is not valid ({error})") from error
    if not isinstance(tree, dict):
        raise broken(path, "its JSON chunk is no object")
    start = 20 + size
    if start + 8 > len(data):
        return tree, b""
    size, kind = struct.unpack_from("<I4s", data, start)
    if kind != b"BIN\0" or start + 8 + size > len(data):
        raise broken(path, f"it is cut short: {len(data) - start - 8} of {size} bytes of arrays are there")
    return tree, data[start + 8 : start + 8 + size]


def values_of(tree: Mapping[str, Any], binary: bytes, accessor: int, path: Path | str) -> NDArray[np.float64]:
    """Return the values of an accessor as float64 [count, width]; normalised integers become fractions.

    Raises: AssetError if numbers in it are missing, sparse, in another file, or outside the binary chunk.
    """
    try:
        entry = tree["accessors"][accessor]
        view = tree["bufferViews"][entry["bufferView"]]
        kind, width = np.dtype(_COMPONENTS[entry["componentType"]]), _WIDTHS[entry["type"]]
        count, has_uri = int(entry["count"]), "uri" in tree["buffers"][view["buffer"]]
        start = int(view.get("byteOffset", 0)) + int(entry.get("byteOffset", 0))
        stride = int(view.get("byteStride", kind.itemsize * width))
        end = start + (count - 1) * stride + kind.itemsize * width if count else start
        if min(count, start, stride) < 0 or end > len(binary):
            raise broken(path, f"its accessor {accessor} reaches beyond its data")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise broken(path, f"its accessor {accessor} is not complete ({error!r})") from error
    if has_uri or "sparse" in entry:
        raise broken(path, f"its accessor {accessor} is sparse or in another file")
    raw = np.ndarray((count, width), kind, binary, start, (stride, kind.itemsize)) if count else np.zeros((0, width))
    values = raw.astype(np.float64)
    if entry.get("normalized") and kind.kind in "iu":
        values = np.maximum(values / np.iinfo(kind).max, -1.0)
    return values


def broken(path: Path | str, why: str) -> AssetError:
    """Return the error that a file is no GLB that can be read."""
    return AssetError(
        f"'{path}' cannot be read: {why}. A whole binary glTF 2.0 file (.glb) with its data inside is needed: save or "
        "copy it again.",
        path,
    )
