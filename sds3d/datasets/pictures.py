"""Pictures of data sets: read, checked and made smaller without dark rims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sds3d.errors import AssetError

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")


def read(path: Path) -> Tensor:
    """Return a picture [H, W, C] float32 in [0, 1], C of 1 to 4, of 8 or 16 bits a channel.

    Raises: AssetError if it is missing, no picture, or a high dynamic range format (those are lights, or need exposure).
    """
    from PIL import Image, UnidentifiedImageError

    if path.suffix.lower() in (".exr", ".hdr"):
        raise AssetError(
            f"'{path}' is a high dynamic range picture, but views are display-referred. Give the LDR version of the set, or "
            "convert it with a fixed exposure.",
            path,
        )
    try:
        with Image.open(path) as file:
            array = np.asarray(file.convert("RGBA") if file.mode == "P" else file)
    except FileNotFoundError as error:
        raise AssetError(
            f"The picture '{path}' does not exist. Copy the whole data set, or take it out.", path
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise AssetError(
            f"'{path}' cannot be read as a picture ({error}). PNG is best: copy it again.", path
        ) from error
    array = array[..., None] if array.ndim == 2 else array
    largest = {"uint8": 255.0, "uint16": 65535.0, "int32": 65535.0, "bool": 1.0}.get(array.dtype.name)
    if largest is None:
        raise AssetError(
            f"'{path}' has pixels of type {array.dtype}, but 8 or 16 bits are needed. Convert it to PNG.", path
        )
    return torch.from_numpy(array.astype(np.float32) / np.float32(largest))


def with_alpha(path: Path, mask: Path | None = None) -> tuple[Tensor, Tensor]:
    """Return (rgb [H, W, 3] not premultiplied, alpha [H, W, 1]) of a picture and, if it has no alpha, of its mask.

    Raises: AssetError if there is neither an alpha channel nor a mask, or the mask has another size.
    """
    picture = read(path)
    rgb = picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1].expand(-1, -1, 3)
    if mask is not None and mask.is_file():
        covered = read(mask)[..., :1]
        if covered.shape[:2] != picture.shape[:2]:
            raise AssetError(
                f"The mask '{mask}' has {list(covered.shape[:2])} pixels, but its picture has {list(picture.shape[:2])}. "
                "Equal sizes are needed: make the mask again.",
                mask,
            )
        return rgb.clone(), covered
    if picture.shape[2] not in (2, 4):
        looked = f" and there is no mask '{mask}'" if mask is not None else ""
        raise AssetError(
            f"'{path}' has {picture.shape[2]} channels, so no alpha{looked}. The object must be told from the background: "
            "save RGBA pictures, or put masks beside them.",
            path,
        )
    return rgb.clone(), picture[..., -1:].clone()


def shrink(plane: Tensor, alpha: Tensor, factor: int) -> Tensor:
    """Return a plane [B, H, W, C] averaged over blocks of `factor` pixels, weighted by alpha [B, H, W, 1].

    Weighting keeps the colour behind an object's edge, which means nothing, out of it.
    """
    if factor == 1:
        return plane
    weighted, weight = _blocks(plane * alpha, factor), _blocks(alpha, factor)
    return torch.where(weight > 1e-6, weighted / weight.clamp_min(1e-6), _blocks(plane, factor))


def shrink_alpha(alpha: Tensor, factor: int) -> Tensor:
    """Return alpha [B, H, W, 1] averaged over blocks of `factor` pixels."""
    return alpha if factor == 1 else _blocks(alpha, factor)


def check_factor(factor: int, height: int, width: int, path: Path) -> None:
    """Raise AssetError unless pictures of height x width pixels can be divided into blocks of `factor` pixels."""
    if factor < 1 or height % factor or width % factor:
        raise AssetError(
            f"Pictures of {width} x {height} pixels in '{path}' cannot be made {factor} times smaller. Give a whole number "
            "that divides both sides.",
            path,
        )


def _blocks(plane: Tensor, factor: int) -> Tensor:
    return torch.nn.functional.avg_pool2d(plane.permute(0, 3, 1, 2), factor).permute(0, 2, 3, 1)
