"""The `.splat` file of antimatter15's web viewer: 32 bytes a Gaussian, no header, no harmonics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sds3d.errors import AssetError
from sds3d.export import atomic
from sds3d.export.splat_files.checks import (
    as_bytes,
    check_finite,
    logits_of_bytes,
    read_bytes,
    refused,
    unit_quats,
)
from sds3d.export.splats import SH_C0, Splats

_RECORD = np.dtype([("centre", "<f4", 3), ("scale", "<f4", 3), ("rgb", "u1", 3), ("opacity", "u1"), ("quat", "u1", 4)])
_LARGEST_LOG_SCALE = 80.0
"""exp of it is near the largest float32; Gaussians of such a size are of no use in any viewer."""
_NEEDED = "a .splat file: 32 bytes a Gaussian, finite positions and scales above 0"


def write(path: Path | str, splats: Splats) -> Path:
    """Write `splats` as records of 32 bytes and return the path.

    Positions and scales (standard deviations) are float32; sRGB and opacity one byte each, so wrong by at most 1/510;
    the unit quaternion (wxyz) is stored as round(128 q + 128), wrong by at most 1/256 a component (1/128 at +1).
    Lost: harmonics beyond degree 0, colours outside [0, 1]. The most visible Gaussians (opacity times volume) come
    first, because viewers draw while they load. The axes stay those of our world, +Z up: the format names no frame.

    Source: the records of the viewer github.com/antimatter15/splat. Deviation: its converter cuts off, this one rounds.
    Raises: AssetError if there are no Gaussians, a value is not finite, or the file cannot be written.
    """
    check_finite(splats, path)
    if not len(splats):
        raise AssetError(
            f"'{path}' was not written: there are 0 Gaussians, and an empty .splat file says nothing. Export ply.", path
        )
    if splats.log_scales.max() > _LARGEST_LOG_SCALE:
        raise AssetError(
            f"'{path}' was not written: a log scale is {splats.log_scales.max():g}, but .splat holds up to "
            f"{_LARGEST_LOG_SCALE:g}. Remove Gaussians of that size, or export ply.",
            path,
        )
    visibility = splats.log_scales.astype(np.float64).sum(axis=1) + np.log(np.maximum(splats.opacities, 1e-30))
    order = np.argsort(-visibility, kind="stable")
    records = np.zeros(len(splats), _RECORD)
    records["centre"], records["scale"] = splats.means, np.exp(splats.log_scales)
    records["rgb"], records["opacity"] = as_bytes(splats.rgb * 255.0), as_bytes(splats.opacities * 255.0)
    records["quat"] = as_bytes(unit_quats(splats.quats) * 128.0 + 128.0)
    return atomic.write_bytes(path, records[order].tobytes())


def read(path: Path | str) -> Splats:
    """Read a `.splat` file; no axes are turned.

    Raises: AssetError if the file is missing, empty, not a whole number of records, or holds impossible values (the format
    has no mark of its own, so this is how other files are told apart).
    """
    data = read_bytes(path, ".splat")
    if not data:
        raise refused(path, "it is empty", _NEEDED)
    if len(data) % _RECORD.itemsize:
        raise refused(path, f"its {len(data)} bytes are no multiple of 32", _NEEDED)
    records = np.frombuffer(data, _RECORD)
    means, scales = records["centre"], records["scale"]
    if not (np.isfinite(means).all() and np.isfinite(scales).all() and (scales >= 0.0).all()):
        raise refused(path, "positions or scales in it are not finite, or scales are negative", _NEEDED)
    return Splats.of(
        means,
        unit_quats((records["quat"].astype(np.float64) - 128.0) / 128.0),
        np.log(np.maximum(scales, 1e-30)),
        logits_of_bytes(records["opacity"]),
        (records["rgb"] / 255.0 - 0.5) / SH_C0,
    )
