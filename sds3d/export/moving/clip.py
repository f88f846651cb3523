"""Clips as moving pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sds3d.clip_times import frame_times
from sds3d.errors import ShapeError
from sds3d.export.images import enlarge, to_bytes, write_png
from sds3d.export.video import write_turntable


def write_clip(path: Path | str, frames: ArrayLike, fps: int = 8, upscale: int = 1) -> Path:
    """Write a clip [F, H, W, 3] (float in [0, 1] or uint8, sRGB) as .mp4 or .gif and return the path.

    Raises: ConfigError for a clip of one frame and wrong numbers; ShapeError; AssetError (see `write_turntable`).
    """
    pictures = np.asarray(frames)
    if pictures.ndim != 4:
        raise ShapeError("frames", "[frames, height, width, 3]", pictures.shape)
    frame_times(len(pictures))
    return write_turntable(path, pictures, fps, upscale)


def write_clip_sheet(path: Path | str, clips: ArrayLike, upscale: int = 1) -> Path:
    """Write clips [N, F, H, W, 3] as one PNG, a row a clip and a column a frame: to look at motion frame by frame."""
    pictures = np.asarray(clips)
    if pictures.ndim != 5:
        raise ShapeError("clips", "[clips, frames, height, width, 3]", pictures.shape)
    count, frames, height, width, _ = pictures.shape
    cells = to_bytes(pictures.reshape(-1, height, width, 3), "clips").reshape(pictures.shape)
    sheet = cells.transpose(0, 2, 1, 3, 4).reshape(1, count * height, frames * width, 3)
    return write_png(path, enlarge(sheet, upscale)[0])
