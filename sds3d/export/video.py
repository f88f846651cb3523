"""Turntables as moving pictures: MP4 that plays everywhere, GIF for pages that show no video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.errors import AssetError, ConfigError
from sds3d.export.atomic import atomic_path
from sds3d.export.images import enlarge, to_bytes

_BT709 = 1
"""Code of BT.709 in H.264's tables of matrices, primaries and transfer curves."""
_MPEG_RANGE = 1
"""Code of limited range (16 to 235), which every player expects."""


def write_turntable(path: Path | str, frames: ArrayLike, fps: int = 24, upscale: int = 1) -> Path:
    """Write `frames` as MP4 or GIF, as the suffix of `path` says, and return the path.

    MP4 is H.264 in yuv420p with BT.709 colours and the index in front, so that browsers start at once. Odd sizes, which
    yuv420p cannot hold, get their last row or column twice. GIF loops for ever, 256 colours a frame, and its clock
    counts hundredths of a second, so the rate is the nearest that allows.

    Args:
        frames: [T, H, W, 3] float in [0, 1] or uint8, sRGB.
        fps: frames a second, 1 to 120.
        upscale: every pixel becomes a square of this many, 1 to 16; small renders play larger without blur.

    Raises: ShapeError, ConfigError for wrong arguments; AssetError if the suffix is neither or writing fails.
    """
    for name, value, highest in (("fps", fps, 120), ("upscale", upscale, 16)):
        if not 1 <= value <= highest:
            raise ConfigError(f"{name} is {value}, but 1 to {highest} is allowed: give one of these.", path=name)
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in (".mp4", ".gif"):
        raise AssetError(
            f"'{target.name}' names no video format that can be written: its suffix is '{suffix}'. "
            "Give '.mp4' or '.gif'.",
            target,
        )
    pictures = enlarge(to_bytes(frames, "frames"), upscale)
    with atomic_path(target) as temporary:
        (_write_mp4 if suffix == ".mp4" else _write_gif)(temporary, pictures, fps)
    return target


def _write_mp4(path: Path, pictures: NDArray[np.uint8], fps: int) -> None:
    import av

    height, width = pictures.shape[1:3]
    even = np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={"crf": "16", "preset": "medium"})
        stream.height, stream.width = even.shape[1:3]
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.thread_count = 1  # the same bytes on every machine
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _MPEG_RANGE
        for picture in even:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=_BT709, dst_color_range=_MPEG_RANGE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _write_gif(path: Path, pictures: NDArray[np.uint8], fps: int) -> None:
    from PIL import Image

    images = [Image.fromarray(picture) for picture in pictures]
    duration_ms = max(20, 10 * round(100 / fps))  # browsers slow anything faster than 20 ms down
    images[0].save(path, "GIF", save_all=True, append_images=images[1:], duration=duration_ms, loop=0)
