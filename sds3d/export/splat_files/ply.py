"""The 3DGS PLY file, which every splat viewer reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError
from sds3d.export import atomic
from sds3d.export.splat_files.checks import read_bytes, refused, unit_quats
from sds3d.export.splats import REST_COUNTS, Array, Splats

_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2",
    "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4", "float": "<f4", "float32": "<f4",
    "double": "<f8", "float64": "<f8",
}  # fmt: skip
"""PLY's names of scalar types as numpy's, little endian."""


def write(path: Path | str, splats: Splats) -> Path:
    """Write `splats` in the 3DGS PLY layout and return the path.

    One element `vertex`, binary little endian, float32 properties in the order viewers depend on: x y z, nx ny nz
    (zeros), f_dc_0..2, f_rest_* (channel by channel: all K red, then green, then blue), opacity (logit), scale_0..2
    (log), rot_0..3 (wxyz, written with unit length because some viewers do not normalise).

    The axes stay those of our world, +Z up and front +X: the layout names no frame, trained scenes usually keep that of
    their cameras, and turning splats would mean turning their harmonics too. A viewer that is +Y up shows the object
    lying on its back until its "up" is set to Z.

    Source: layout of the reference implementation of Kerbl et al., "3D Gaussian Splatting", 2023.
    Raises: AssetError if a value is not finite or the file cannot be written.
    """
    rest = splats.shN if splats.shN is not None else np.zeros((len(splats), 0, 3), np.float32)
    rest = rest.transpose(0, 2, 1).reshape(len(splats), 3 * rest.shape[1])  # [N, K, 3] -> [N, 3 K], channel by channel
    columns = [splats.means, np.zeros_like(splats.means), splats.sh0, rest]
    columns += [splats.opacity_logits[:, None], splats.log_scales, unit_quats(splats.quats).astype(np.float32)]
    table = np.concatenate(columns, axis=1).astype("<f4")
    names = _property_names(rest.shape[1])
    if not np.isfinite(table).all():
        bad = [name for name, column in zip(names, table.T, strict=True) if not np.isfinite(column).all()]
        raise AssetError(
            f"The splats hold NaN or infinity in {', '.join(bad)}, so '{path}' was not written. Every value must be "
            "finite: export from the last good checkpoint.",
            path,
        )
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(splats)}"]
    lines += [f"property float {name}" for name in names] + ["end_header", ""]
    return atomic.write_bytes(path, "\n".join(lines).encode("ascii") + table.tobytes())


def read(path: Path | str) -> Splats:
    """Read a 3DGS PLY file: any order of properties, any scalar type, unknown properties are ignored.

    Raises: AssetError if the file is missing, not a binary little-endian PLY, cut short, or lacks a needed property.
    Limits: compressed PLY variants (chunks of packed integers) are refused with a message; no axes are turned.
    """
    source = Path(path)
    data = read_bytes(source, "splat PLY")
    count, layout, start = _parse_header(data, source)
    table = _table(data, count, layout, start, source)
    numbered = (name for name in layout.names or () if name.startswith("f_rest_") and name[7:].isdecimal())
    rest_names = sorted(numbered, key=lambda name: int(name[7:]))
    missing = [
        name for name in _property_names(0) if name not in (layout.names or ()) and name not in ("nx", "ny", "nz")
    ]
    if missing or len(rest_names) not in [3 * k for k in REST_COUNTS]:
        given = f"{len(rest_names)} f_rest properties" if not missing else f"no {', '.join(missing)}"
        raise AssetError(
            f"'{source}' is a PLY file but not one of 3D Gaussians: it has {given}. Needed are x y z, f_dc_0..2, "
            "opacity, scale_0..2, rot_0..3 and 0, 9, 24 or 45 f_rest. Compressed splats must be unpacked first.",
            source,
        )

    def columns(*names: str) -> Array:
        return np.stack([table[name] for name in names], axis=1).astype(np.float32)

    rest = columns(*rest_names).reshape(count, 3, len(rest_names) // 3).transpose(0, 2, 1) if rest_names else None
    return Splats(
        means=columns("x", "y", "z"),
        quats=columns("rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=columns("scale_0", "scale_1", "scale_2"),
        opacity_logits=table["opacity"].astype(np.float32),
        sh0=columns("f_dc_0", "f_dc_1", "f_dc_2"),
        shN=rest,
    )


def _property_names(rest: int) -> list[str]:
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
    names += [f"f_rest_{i}" for i in range(rest)]
    return [*names, "opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def _parse_header(data: bytes, source: Path) -> tuple[int, np.dtype[np.void], int]:
    """Return the vertex count, the record type of a vertex, and where the records start."""

    def fail(why: str) -> AssetError:
        needed = "a binary little-endian PLY whose first element is 'vertex' with scalar properties"
        return refused(source, why, needed)

    end = data.find(b"end_header")
    stop = data.find(b"\n", end)
    if not data.startswith(b"ply") or end < 0 or stop < 0:
        raise fail("it has no PLY header")
    count, fields = -1, []
    for words in (line.split() for line in data[:end].decode("ascii", "replace").splitlines()[1:]):
        if words[:1] == ["format"] and words[1:2] != ["binary_little_endian"]:
            raise fail(f"its format is '{' '.join(words[1:2])}'")
        if words[:1] == ["element"]:
            if count >= 0:
                break  # later elements follow the vertices in the file and are not needed
            if len(words) != 3 or words[1] != "vertex" or not words[2].isdigit():
                raise fail(f"its first element is '{' '.join(words[1:])}'")
            count = int(words[2])
        if words[:1] == ["property"]:
            if len(words) != 3 or words[1] not in _PLY_TYPES:
                raise fail(f"it has the property '{' '.join(words[1:])}'")
            fields.append((words[2], _PLY_TYPES[words[1]]))
    if count < 0 or len({name for name, _ in fields}) != len(fields):
        raise fail("it has no element 'vertex' or names a property twice")
    return count, np.dtype(fields), stop + 1


def _table(data: bytes, count: int, layout: np.dtype[np.void], start: int, source: Path) -> NDArray[np.void]:
    needed, present = count * layout.itemsize, len(data) - start
    if present < needed:
        raise AssetError(
            f"'{source}' is cut short: {present} bytes of vertices are there, {count} vertices need {needed}. Copy or "
            "export the file again.",
            source,
        )
    return np.frombuffer(data, layout, count, start)
