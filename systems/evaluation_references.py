"""Pictures to compare an asset with: a folder of photographs with cameras, a turntable of pictures, or another run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sds3d.cameras import Cameras
from sds3d.config import Recipe
from sds3d.conventions import OPENCV_TO_OPENGL
from sds3d.errors import AssetError
from systems.assets import around
from systems.pictures import draw

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
CAMERAS_FILE = "transforms.json"
VIEWS, SIZE, WHITE = 12, 128, 1.0
"""Views of another run, and the background behind all pictures."""


@dataclass(frozen=True, kw_only=True)
class References:
    """Pictures [B, H, W, 3] in [0, 1] on white, and the cameras they were taken with."""

    pictures: NDArray[np.float32]
    cameras: Cameras


def read_references(folder: Path, recipe: Recipe) -> References:
    """Return what a reference folder holds.

    One of three: a run folder, which is drawn from 12 sides; a folder with `transforms.json` (NeRF's layout: OpenGL
    camera-to-world matrices in a +Z-up world, camera_angle_x or fl_x); or pictures in the order of their names, evenly
    around the object from its front at elevation 20, as `render` draws them. Transparent pictures are laid on white.

    recipe: of the run to be compared, whose distance and field of view a turntable has.
    Raises: AssetError if it is none of these, or a file in it cannot be read.
    """
    if not folder.is_dir():
        raise AssetError(f"There is no reference folder '{folder}'. Give a folder of pictures or of a run.", folder)
    if (folder / "run.json").is_file():
        return _of_run(folder, recipe)
    if (folder / CAMERAS_FILE).is_file():
        return _of_transforms(folder)
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in ENDINGS)
    if not files:
        raise AssetError(
            f"'{folder}' holds nothing to compare with: neither {CAMERAS_FILE}, nor pictures ({', '.join(ENDINGS)}), nor a "
            "run. Give a folder that has one of them.",
            folder,
        )
    pictures = _stack(files)
    height, width = pictures.shape[1:3]
    if height != width:
        raise AssetError(
            f"'{files[0]}' is {width} x {height} pixels, but pictures of a turntable are square.", files[0]
        )
    return References(pictures=pictures, cameras=around(recipe, len(files), width))


def _of_run(folder: Path, recipe: Recipe) -> References:
    from sds3d.run import open_run
    from systems.text_to_3d import trained

    run = open_run(folder)
    renderer, _ = trained(run.read_recipe(), run)
    cameras = around(recipe, VIEWS, SIZE)
    return References(pictures=draw(renderer, cameras, WHITE)[0].numpy(), cameras=cameras)


def _of_transforms(folder: Path) -> References:
    file = folder / CAMERAS_FILE
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        frames = data["frames"]
        files = [_picture_file(folder, str(frame["file_path"])) for frame in frames]
        matrices = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float32)
        matrices = matrices.reshape(len(files), 4, 4) @ torch.diag(torch.tensor(OPENCV_TO_OPENGL))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise AssetError(
            f"'{file}' cannot be read: {error!r}. It needs 'frames' with 'file_path' and a 4x4 'transform_matrix', and "
            "'camera_angle_x' or 'fl_x'.",
            file,
        ) from error
    pictures = _stack(files)
    height, width = pictures.shape[1:3]
    return References(
        pictures=pictures, cameras=_cameras(matrices, _intrinsics(data, width, height, file), width, height)
    )


def _intrinsics(data: dict[str, Any], width: int, height: int, file: Path) -> torch.Tensor:
    """Return one 3x3 matrix in pixels of the pictures; focal lengths are scaled if "w" names another width."""
    if "fl_x" in data:
        scale = width / float(data.get("w", width))
        focal = float(data["fl_x"]) * scale
        focal_y = float(data.get("fl_y", data["fl_x"])) * scale
        middle = float(data.get("cx", 0.5 * width / scale)) * scale, float(data.get("cy", 0.5 * height / scale)) * scale
    elif "camera_angle_x" in data:
        focal = focal_y = 0.5 * width / math.tan(0.5 * float(data["camera_angle_x"]))
        middle = 0.5 * width, 0.5 * height
    else:
        raise AssetError(f"'{file}' names no lens: 'camera_angle_x' (radians) or 'fl_x' (pixels) is needed.", file)
    return torch.tensor([[focal, 0.0, middle[0]], [0.0, focal_y, middle[1]], [0.0, 0.0, 1.0]])


def _cameras(matrices: torch.Tensor, intrinsics: torch.Tensor, width: int, height: int) -> Cameras:
    position = matrices[:, :3, 3]
    distance = position.norm(dim=1)
    azimuth = torch.rad2deg(torch.atan2(position[:, 1], position[:, 0]))
    elevation = torch.rad2deg(torch.asin((position[:, 2] / distance.clamp(min=1e-9)).clamp(-1.0, 1.0)))
    lenses = intrinsics.expand(len(matrices), 3, 3)
    return Cameras(matrices, lenses, width, height, azimuth, elevation, distance)


def _picture_file(folder: Path, name: str) -> Path:
    """Return the file of a frame; NeRF's synthetic scenes leave out its ending."""
    path = folder / name
    options = [path, *(path.with_name(path.name + ending) for ending in ENDINGS)]
    return next((option for option in options if option.is_file()), path)


def _stack(files: list[Path]) -> NDArray[np.float32]:
    """Return pictures of one size [B, H, W, 3] on white."""
    pictures = [_read(file) for file in files]
    for file, picture in zip(files, pictures, strict=True):
        if picture.shape != pictures[0].shape:
            sizes = " and ".join(f"{p.shape[1]} x {p.shape[0]}" for p in (pictures[0], picture))
            raise AssetError(
                f"'{file}' differs in size from '{files[0].name}' ({sizes}): give pictures of one size.", file
            )
    return np.stack(pictures)


def _read(file: Path) -> NDArray[np.float32]:
    from PIL import Image

    try:
        with Image.open(file) as opened:
            pixels = np.asarray(opened.convert("RGBA"), np.float32) / 255.0
    except (OSError, ValueError) as error:
        raise AssetError(f"The picture '{file}' cannot be read: {error}. Save it again, as PNG.", file) from error
    alpha = pixels[..., 3:]
    return np.asarray(pixels[..., :3] * alpha + WHITE * (1.0 - alpha), np.float32)
