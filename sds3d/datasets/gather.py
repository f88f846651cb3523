"""From lists of files and matrices to a `ViewSet`: what the readers of all layouts share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sds3d.datasets import pictures
from sds3d.datasets.frames import cameras_at
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError
from sds3d.shading.colour import linear_from_srgb


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture on disk.

    Args:
        image: file. mask: file of its alpha, if not in the picture itself.
        cam_to_world: [4, 4] OpenCV axes. intrinsics: [3, 3] in pixels of the file.
        planes: field of `ViewSet` -> file (normals, albedo). relit: name of a light -> file.
    """

    image: Path
    cam_to_world: Tensor
    intrinsics: Tensor
    mask: Path | None = None
    planes: Mapping[str, Path] = field(default_factory=dict)
    relit: Mapping[str, Path] = field(default_factory=dict)


def gather(name: str, shots: Sequence[Shot], folder: Path, shrink: int = 1) -> ViewSet:
    """Return the pictures of `shots`, each side divided by `shrink`.

    Raises: AssetError if there are none, or they differ in size; whatever `pictures` raises.
    """
    if not shots:
        raise AssetError(
            f"No pictures were found in '{folder}' for the set '{name}'. Check the folder and the split.", folder
        )
    rgb, alpha = zip(*(pictures.with_alpha(shot.image, shot.mask) for shot in shots), strict=True)
    _check_sizes(rgb, shots)
    height, width = rgb[0].shape[:2]
    pictures.check_factor(shrink, height, width, folder)
    images, covered = torch.stack(rgb), torch.stack(alpha)
    fields: dict[str, Any] = {}
    for key in shots[0].planes:
        plane = torch.stack([_channels(pictures.read(shot.planes[key])) for shot in shots])
        fields[key] = pictures.shrink(_decoded(key, plane), covered, shrink)
    relit = {
        key: pictures.shrink(
            torch.stack([_channels(pictures.read(shot.relit[key])) for shot in shots]), covered, shrink
        )
        for key in shots[0].relit
    }
    intrinsics = torch.stack([shot.intrinsics for shot in shots])
    intrinsics = torch.cat([intrinsics[:, :2] / shrink, intrinsics[:, 2:]], dim=1)
    matrices = torch.stack([shot.cam_to_world for shot in shots])
    if "normals" in fields:
        fields["normals"] = torch.nn.functional.normalize(fields["normals"], dim=-1)
    return ViewSet(
        name=name,
        images=pictures.shrink(images, covered, shrink),
        alpha=pictures.shrink_alpha(covered, shrink),
        cameras=cameras_at(matrices, intrinsics, width // shrink, height // shrink),
        names=tuple(shot.image.relative_to(folder).as_posix() for shot in shots),
        relit=relit,
        **fields,
    )


def read_json(path: Path) -> Any:
    """Return the contents of a JSON file. Raises: AssetError if it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise AssetError(
            f"'{path}' does not exist, but the layout of this data set needs it. Give the folder that holds it.", path
        ) from error
    except (OSError, ValueError) as error:
        raise AssetError(f"'{path}' is not valid JSON ({error}). Copy the file again.", path) from error


def matrix_of(values: Any, path: Path) -> Tensor:
    """Return a [4, 4] matrix (float64) of nested lists, or raise AssetError."""
    try:
        matrix = torch.tensor(values, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise AssetError(f"A camera in '{path}' is no matrix of numbers ({error}). Write it again.", path) from error
    if tuple(matrix.shape) != (4, 4) or not torch.isfinite(matrix).all():
        raise AssetError(f"A camera in '{path}' has shape {list(matrix.shape)}; a finite 4 x 4 matrix is needed.", path)
    return matrix


def size_of(path: Path) -> tuple[int, int]:
    """Return (width, height) of a picture without reading its pixels. Raises: AssetError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            return file.size
    except FileNotFoundError as error:
        raise AssetError(
            f"The picture '{path}' does not exist. Copy the whole data set, or take it out.", path
        ) from error
    except (UnidentifiedImageError, OSError) as error:
        raise AssetError(
            f"'{path}' cannot be read as a picture ({error}). PNG is best: copy it again.", path
        ) from error


def _check_sizes(rgb: Sequence[Tensor], shots: Sequence[Shot]) -> None:
    for picture, shot in zip(rgb, shots, strict=True):
        if picture.shape != rgb[0].shape:
            raise AssetError(
                f"'{shot.image}' has {list(picture.shape[:2])} pixels, but '{shots[0].image}' has {list(rgb[0].shape[:2])}. "
                "All pictures of a set must have one size: resize them.",
                shot.image,
            )


def _channels(picture: Tensor) -> Tensor:
    return picture[..., :3] if picture.shape[2] >= 3 else picture[..., :1].expand(-1, -1, 3)


def _decoded(key: str, plane: Tensor) -> Tensor:
    """Return a plane as `ViewSet` keeps it: normals from 0.5 n + 0.5, base colour from sRGB, the rest one channel."""
    if key == "normals":
        return 2.0 * plane - 1.0
    if key == "albedo":
        return linear_from_srgb(plane)
    return plane[..., :1]
