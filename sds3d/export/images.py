"""Pictures at the border: floats in [0, 1] or bytes, to bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import atomic_path


def to_bytes(images: ArrayLike | Sequence[ArrayLike], name: str = "images") -> NDArray[np.uint8]:
    """Return [N, H, W, 3] uint8 sRGB from float in [0, 1] (values outside are clipped) or uint8; CPU tensors too.

    Raises: ShapeError if the shape differs or there is no image; AssetError if a value is NaN.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[3] != 3 or 0 in array.shape:
        raise ShapeError(name, "[N, H, W, 3] with at least one image", array.shape)
    if array.dtype == np.uint8:
        return array
    values = array.astype(np.float32)
    if np.isnan(values).any():
        raise AssetError(
            f"{name} holds {int(np.isnan(values).sum())} NaN values, so nothing was written. Colours in [0, 1] are "
            "needed: render from the last good checkpoint."
        )
    return np.rint(np.clip(values, 0.0, 1.0) * 255.0).astype(np.uint8)


def enlarge(images: NDArray[np.uint8], factor: int) -> NDArray[np.uint8]:
    """Repeat every pixel of [N, H, W, 3] `factor` times both ways."""
    return images.repeat(factor, axis=1).repeat(factor, axis=2)


def write_png(path: Path | str, image: ArrayLike) -> Path:
    """Write one image [H, W, 3] (as for `to_bytes`) as PNG, atomically, and return the path."""
    from PIL import Image

    picture = Image.fromarray(to_bytes(np.asarray(image)[None], "image")[0])
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
    return Path(path)
