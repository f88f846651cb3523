"""Light images on disk: Radiance .hdr and OpenEXR .exr, checked before they light anything."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.errors import AssetError, BackendError, ShapeError
from sds3d.export.atomic import atomic_path
from sds3d.shading import colour, latlong, radiance_file

DISPLAY_ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
ENDINGS = (".hdr", ".exr", *DISPLAY_ENDINGS)
ROUNDING = 1e-3
"""Negative values down to this share of the brightest are rounding of a resampled file, and become 0."""


def read_light_image(path: Path | str, convention: str = "blender", axes: str = "gltf") -> Tensor:
    """Return the light [H, 2 H, 3] float32, linear Rec.709 >= 0, of a latitude-longitude file, in our convention.

    Args: path: .hdr or .exr; .png, .jpg and .webp are taken as sRGB, with a warning.
        convention: whose, of `latlong.CONVENTIONS`. axes: see `latlong.AXES`.

    Warns: if the picture was made for a screen, so that its lamps are too dark; if small negative values were cut off.
    Raises: AssetError if the file is missing, damaged, negative, not finite, black or not twice as wide as high;
        BackendError if an .exr needs a package that is not installed; ConfigError for an unknown convention.
    """
    path = Path(path)
    if path.suffix.lower() not in ENDINGS:
        raise AssetError(f"'{path}' ends in '{path.suffix}', which is no light image. Give {', '.join(ENDINGS)}.", path)
    if not path.is_file():
        raise AssetError(f"The light image '{path}' does not exist. Give the path of a .hdr or .exr file.", path)
    read = {".hdr": _read_hdr, ".exr": _read_exr}.get(path.suffix.lower(), _read_display)
    image = _checked(read(path), path)
    return latlong.convert(torch.from_numpy(image), convention, "blender", axes)


def _checked(image: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """Return the picture without negative rounding; raise or warn if it cannot be a light."""
    height, width = image.shape[:2]
    if width != 2 * height:
        raise AssetError(
            f"'{path}' has {width} x {height} pixels, but a light image is twice as wide as high "
            "(latitude-longitude). Convert or crop it.",
            path,
        )
    broken = int((~np.isfinite(image)).sum())
    if broken:
        raise AssetError(
            f"'{path}' has {broken} NaN or infinite values, but light must be a number >= 0. Repair the image "
            "(infinities often come from saving a sun in half precision).",
            path,
        )
    lowest, highest = float(image.min()), float(image.max())
    if lowest < -ROUNDING * highest or highest <= 0:
        state = "is black" if lowest == highest == 0 else f"is negative, down to {lowest:.3g}"
        raise AssetError(f"'{path}' {state}, but light must be >= 0 and somewhere > 0. Give another image.", path)
    if lowest < 0:
        warnings.warn(f"'{path}': negative values (down to {lowest:.2g}) were set to 0.", stacklevel=3)
    if path.suffix.lower() not in DISPLAY_ENDINGS and highest <= 1.0:
        warnings.warn(
            f"'{path}' is nowhere brighter than 1: it looks like a picture for screens, whose lamps are cut off.",
            stacklevel=3,
        )
    return np.ascontiguousarray(image.clip(0.0, None), dtype=np.float32)


def _read_hdr(path: Path) -> NDArray[np.float32]:
    return radiance_file.unpack(path.read_bytes(), path)


def _read_display(path: Path) -> NDArray[np.float32]:
    from PIL import Image, UnidentifiedImageError

    warnings.warn(
        f"'{path}' is a picture for screens, not a light: its lamps are cut off at white. Use .hdr or .exr.",
        stacklevel=3,
    )
    try:
        with Image.open(path) as picture:
            array = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255.0
    except (UnidentifiedImageError, OSError) as problem:
        raise AssetError(f"'{path}' cannot be read as a picture: {problem}. Get the file again.", path) from problem
    return colour.linear_from_srgb(torch.from_numpy(array)).numpy()


def _read_exr(path: Path) -> NDArray[np.float32]:
    """Return [H, W, 3]; one channel is taken as grey, alpha is ignored."""
    with path.open("rb") as file:
        if file.read(4) != b"\x76\x2f\x31\x01":
            raise AssetError(f"'{path}' is no OpenEXR file, or is damaged. Get the file again.", path)
    openexr = _openexr(path)
    try:
        with openexr.File(str(path), separate_channels=True) as file:
            found = {name: np.asarray(channel.pixels, np.float32) for name, channel in file.channels().items()}
    except Exception as problem:  # the package raises RuntimeError, and others for cut-off files
        raise AssetError(f"'{path}' is damaged: {problem}. Get the file again.", path) from problem
    if all(name in found for name in "RGB"):
        return np.stack([found[name] for name in "RGB"], axis=-1)
    if "Y" in found and not {"RY", "BY"} & set(found):
        return np.repeat(found["Y"][..., None], 3, axis=-1)
    raise AssetError(
        f"'{path}' has the channels {', '.join(sorted(found))}, but R, G and B are needed. Save it as RGB.", path
    )


def _openexr(path: Path | str):  # type: ignore[no-untyped-def]  # a foreign module without types
    try:
        import OpenEXR
    except ImportError as problem:
        raise BackendError(
            f"'{path}' needs the package OpenEXR, which is not installed: {problem}. "
            "Run \"pip install 'sds3d[exr]'\" (or 'pip install OpenEXR'), or convert the file to .hdr, which needs nothing."
        ) from problem
    return OpenEXR


def probe() -> str:
    """Return "available" if .exr files can be read and written, or why not and the command that would change it."""
    try:
        _openexr(".exr")
    except BackendError:
        return "the package OpenEXR is not installed: pip install 'sds3d[exr]' (.hdr needs nothing)"
    return "available"


def _writable(image: Tensor) -> NDArray[np.float32]:
    """Return [H, W, 3] float32 of a picture that can be written. Raises: ShapeError, AssetError."""
    if image.dim() != 3 or image.shape[2] != 3:
        raise ShapeError("image", "[H, W, 3]", tuple(image.shape))
    array = np.ascontiguousarray(image.detach().cpu().float().numpy())
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise AssetError("The light has negative, infinite or NaN values, so nothing was written. Light is >= 0.")
    return array


def write_hdr(path: Path | str, image: Tensor) -> Path:
    """Write linear light [H, W, 3] >= 0 as Radiance .hdr, atomically, and return the path. Right to 1/256 a pixel."""
    data = radiance_file.pack(_writable(image))
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(data)
    return Path(path)


def write_exr(path: Path | str, image: Tensor) -> Path:
    """Write linear light [H, W, 3] >= 0 as OpenEXR float32, atomically, and return the path. Raises: BackendError."""
    array, openexr = _writable(image), _openexr(path)
    header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
    with atomic_path(path) as temporary:
        openexr.File(header, {"RGB": array}).write(str(temporary))
    return Path(path)
