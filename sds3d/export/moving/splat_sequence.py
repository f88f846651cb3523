"""Splats that move: one .ply a frame with the same Gaussians in the same order, and a page of facts beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sds3d.clip_times import frame_times
from sds3d.errors import AssetError, ConfigError
from sds3d.export.atomic import write_bytes
from sds3d.export.splat_files import ply
from sds3d.export.splats import Splats

FACTS = "sequence.json"


def write_splat_sequence(folder: Path | str, frames: Sequence[Splats], fps: float = 8.0, is_loop: bool = False) -> Path:
    """Write frame_00000.ply, frame_00001.ply, ... and sequence.json to `folder` and return it.

    Every file is an ordinary 3DGS file that any viewer opens; players interpolate between frames because Gaussian i of
    one frame is Gaussian i of the next.

    Raises: ConfigError for fewer than two frames or an fps that is not above 0; AssetError if the frames hold different
        numbers of Gaussians, hold numbers that are not finite, or cannot be written.
    """
    frame_times(len(frames))
    if not fps > 0:
        raise ConfigError(f"fps is {fps}, but more than 0 frames a second are needed. Give 8.", "fps")
    counts = {len(frame) for frame in frames}
    target = Path(folder)
    if len(counts) != 1:
        raise AssetError(
            f"The frames for '{target}' hold {min(counts)} to {max(counts)} Gaussians, but all must hold the same ones. "
            "Turn density control off while things move.",
            target,
        )
    names = [f"frame_{number:05d}.ply" for number in range(len(frames))]
    for name, frame in zip(names, frames, strict=True):
        ply.write(target / name, frame)
    places = np.concatenate([frame.means for frame in frames])
    facts = {
        "format": "sds3d.splat_sequence",
        "version": 1,
        "frames": names,
        "fps": fps,
        "loop": is_loop,
        "count": counts.pop(),
        "up": "+Z",
        "box": [places.min(axis=0).tolist(), places.max(axis=0).tolist()],
    }
    write_bytes(target / FACTS, json.dumps(facts, indent=1).encode("ascii"))
    return target


def read_splat_sequence(folder: Path | str) -> tuple[list[Splats], float, bool]:
    """Return (frames, fps, is_loop) of what `write_splat_sequence` wrote. Raises: AssetError if it is not complete."""
    path = Path(folder) / FACTS
    try:
        facts = json.loads(path.read_text())
        names, fps, is_loop = [Path(name).name for name in facts["frames"]], float(facts["fps"]), bool(facts["loop"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AssetError(
            f"'{path}' cannot be read ({error}). A folder of frames with a whole {FACTS} is needed: export it again.",
            path,
        ) from error
    return [ply.read(Path(folder) / name) for name in names], fps, is_loop
