"""What all splat formats share: read whole, refuse what is broken, write only what is finite."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError
from sds3d.export.splats import Splats

OPACITY_QUARTER_STEP = 0.25 / 255.0
"""Opacities stored in bytes: 0 and 255 stand for half a step, [0, 0.5] and [254.5, 255], and are read as its middle,
so that their logits are finite and a run that starts from the file can still move them."""


def read_bytes(path: Path | str, kind: str) -> bytes:
    """Return the contents of a file. Raises: AssetError if it is missing or not readable."""
    source = Path(path)
    try:
        return source.read_bytes()
    except OSError as error:
        raise AssetError(
            f"Cannot read '{source}': {error.strerror}. A {kind} file is needed: give its path.", source
        ) from error


def refused(path: Path | str, why: str, needed: str) -> AssetError:
    """Return the error that says why a file cannot be read as splats, what is needed, and what to do."""
    return AssetError(f"'{path}' cannot be read as splats: {why}. Needed is {needed}; save or copy it again.", path)


def check_finite(splats: Splats, path: Path | str) -> None:
    """Raise AssetError naming the arrays of `splats` that hold NaN or infinity; nothing is to be written then."""
    names = ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN")
    arrays = {name: getattr(splats, name) for name in names if getattr(splats, name) is not None}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise AssetError(
            f"The splats hold NaN or infinity in {', '.join(bad)}, so '{path}' was not written. Every value must be "
            "finite: export from the last good checkpoint.",
            path,
        )


def unit_quats(quats: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return wxyz quaternions [N, 4] with unit length (some viewers do not normalise); zeros become the identity."""
    exact = quats.astype(np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.where(length > 0.0, exact / np.maximum(length, 1e-300), [1.0, 0.0, 0.0, 0.0])


def logits_of_bytes(opacity: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return logits [N] of opacities stored as bytes / 255."""
    value = np.clip(opacity / 255.0, OPACITY_QUARTER_STEP, 1.0 - OPACITY_QUARTER_STEP)
    return np.log(value) - np.log1p(-value)


def as_bytes(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return the nearest whole numbers in 0 .. 255 (what lies outside is clipped)."""
    return np.clip(np.floor(values + 0.5), 0.0, 255.0).astype(np.uint8)
