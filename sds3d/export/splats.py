"""Gaussian splats as plain arrays, and the PLY file that every splat viewer reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import write_bytes

Array = NDArray[np.float32]

SH_C0 = 0.28209479177387814
"""Value of the spherical harmonic of degree 0: rgb = 0.5 + SH_C0 * sh0."""

_REST_COUNTS = (0, 3, 8, 15)
"""Coefficients beyond degree 0 for spherical harmonics of degree 0, 1, 2 and 3."""

_PLY_TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "<i2", "int16": "<i2", "ushort": "<u2",
    "uint16": "<u2", "int": "<i4", "int32": "<i4", "uint": "<u4", "uint32": "<u4", "float": "<f4", "float32": "<f4",
    "double": "<f8", "float64": "<f8",
}  # fmt: skip
"""PLY's names of scalar types as numpy's, little endian."""


@dataclass(frozen=True)
class Splats:
    """N Gaussians as they are stored: before exp and sigmoid.

    Args:
        means: [N, 3] float32 centres, world frame of `sds3d.conventions`.
        quats: [N, 4] float32 wxyz, any length > 0. Columns of the rotation are the Gaussian's axes in the world.
        log_scales: [N, 3] float32, natural logarithm of the standard deviations.
        opacity_logits: [N] float32, opacity = sigmoid of it.
        sh0: [N, 3] float32, rgb (sRGB) = 0.5 + SH_C0 * sh0.
        shN: [N, K, 3] float32 with K of 3, 8 or 15 (degrees 1 to 3), or None for view-independent colour.

    Raises: ShapeError if a shape differs from the above; arrays are converted to float32.
    """

    means: Array
    quats: Array
    log_scales: Array
    opacity_logits: Array
    sh0: Array
    shN: Array | None = None

    def __post_init__(self) -> None:
        for name in ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, dtype=np.float32))
        count = len(self.means) if self.means.ndim else 0
        widths: dict[str, tuple[int, ...]] = {
            "means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "sh0": (3,),
        }  # fmt: skip
        for name, rest in widths.items():
            shape = getattr(self, name).shape
            if shape != (count, *rest):
                raise ShapeError(f"Splats.{name}", f"{[count, *rest]} (N from means)", shape)
        if self.shN is not None:
            shape = self.shN.shape
            if len(shape) != 3 or shape[0] != count or shape[2] != 3 or shape[1] not in _REST_COUNTS:
                raise ShapeError("Splats.shN", f"[{count}, K, 3] with K of 0, 3, 8 or 15", shape)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def opacities(self) -> Array:
        """[N] in (0, 1)."""
        return _sigmoid(self.opacity_logits)

    @property
    def rgb(self) -> Array:
        """[N, 3] sRGB of the view-independent part, clipped to [0, 1]."""
        return np.clip(0.5 + SH_C0 * self.sh0, 0.0, 1.0).astype(np.float32)

    @property
    def rotations(self) -> Array:
        """[N, 3, 3] rotation matrices of the normalised quaternions; a zero quaternion gives the identity."""
        return _rotations(self.quats)

    def where(self, keep: NDArray[np.bool_]) -> Splats:
        """Return the Gaussians for which `keep` [N] is true."""
        rest = None if self.shN is None else self.shN[keep]
        return Splats(
            self.means[keep], self.quats[keep], self.log_scales[keep], self.opacity_logits[keep], self.sh0[keep], rest
        )


def write_ply(path: Path | str, splats: Splats) -> Path:
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
    length = np.linalg.norm(splats.quats, axis=1, keepdims=True)
    identity = np.array([1.0, 0.0, 0.0, 0.0], np.float32)
    quats = np.where(length > 0.0, splats.quats / np.maximum(length, 1e-12), identity)
    rest = splats.shN if splats.shN is not None else np.zeros((len(splats), 0, 3), np.float32)
    rest = rest.transpose(0, 2, 1).reshape(len(splats), 3 * rest.shape[1])  # [N, K, 3] -> [N, 3 K], channel by channel
    columns = [splats.means, np.zeros_like(splats.means), splats.sh0, rest]
    columns += [splats.opacity_logits[:, None], splats.log_scales, quats]
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
    return write_bytes(path, "\n".join(lines).encode("ascii") + table.tobytes())


def read_ply(path: Path | str) -> Splats:
    """Read a 3DGS PLY file: any order of properties, any scalar type, unknown properties are ignored.

    Raises: AssetError if the file is missing, not a binary little-endian PLY, cut short, or lacks a needed property.
    Limits: compressed PLY variants (chunks of packed integers) are refused with a message; no axes are turned.
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise AssetError(
            f"Cannot read '{source}': {error.strerror}. Give the path of a splat PLY file.", source
        ) from error
    count, layout, start = _parse_header(data, source)
    table = _table(data, count, layout, start, source)
    rest_names = sorted((n for n in layout.names or () if n.startswith("f_rest_")), key=lambda n: int(n[7:]))
    missing = [
        name for name in _property_names(0) if name not in (layout.names or ()) and name not in ("nx", "ny", "nz")
    ]
    if missing or len(rest_names) not in [3 * k for k in _REST_COUNTS]:
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
        return AssetError(
            f"'{source}' cannot be read as splats: {why}. A binary little-endian PLY whose first element is 'vertex' "
            "with scalar properties is needed; save it again in that form.",
            source,
        )

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


def _sigmoid(x: Array) -> Array:
    return (0.5 * (1.0 + np.tanh(0.5 * x.astype(np.float64)))).astype(np.float32)


def _rotations(quats: Array) -> Array:
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    w, x, y, z = np.where(length > 0.0, quats / np.maximum(length, 1e-12), [1.0, 0.0, 0.0, 0.0]).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows, np.float32).transpose(2, 0, 1)
