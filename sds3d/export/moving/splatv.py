"""Splats that move in one file, .splatv: every Gaussian travels on a cubic of time, as the web player splaTV reads it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.clip_times import frame_times
from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes
from sds3d.export.splats import SH_C0, Splats

MAGIC = 0x674B
WORDS, ROW = 16, 1024
"""32-bit words a Gaussian, and Gaussians a row of the texture (4096 texels of four words)."""
ALWAYS = 1e4
"""Width in time of a Gaussian that is there all the time: its opacity exp(-(dt / width)^2) stays 1."""
CENTRE = 0.5
CAMERA = {"width": 512, "height": 512, "fx": 618.0, "fy": 618.0}
"""The first camera of the file; 45 degrees high."""
Numbers = NDArray[np.floating[Any]]


def write_splatv(path: Path | str, frames: Sequence[Splats], is_loop: bool = False, distance: float = 2.5) -> Path:
    """Write frames of the same Gaussians as cubics of time, and return the path; `distance` is that of the first camera.

    Source: antimatter15/splaTV hybrid.js, whose layout this is; there is no other specification. Little-endian: 0x674B, length
    of the JSON that follows, JSON [{type, size, texwidth, texheight, cameras}], then rows of 1024 Gaussians of 16 words:
    position (3 float32), quaternion wxyz (4 halves), scales (3 halves, standard deviations, and 0), rgba (4 bytes), first, second
    and third coefficient of dt = t - centre (9 halves and 0), change of the quaternion a dt (4 halves), centre and
    width in time (2 halves). The file has no up; its first camera looks at the front.
    Limits: a cubic has two turns at most, `fit_error` says what that costs; quaternions change linearly; scales, opacities
    and colours are those of the first frame, without harmonics beyond degree 0; a loop is played there and back.
    Raises: ConfigError for one frame; AssetError if the frames hold different numbers of Gaussians or it cannot be written.
    """
    times = np.asarray(frame_times(len(frames), is_loop))
    if len({len(frame) for frame in frames}) != 1:
        raise AssetError(
            f"The frames for '{path}' hold {min(map(len, frames))} to {max(map(len, frames))} Gaussians, but all must hold "
            "the same ones. Turn density control off while things move.",
            path,
        )
    rows = -(-len(frames[0]) // ROW)
    texture = np.zeros((rows * ROW, WORDS), np.uint32)
    texture[:, 15] = _halves(np.full((rows * ROW, 2), [-1.0, 0.01]))[:, 0]  # what fills the last row is never there
    texture[: len(frames[0])] = _words(frames, times)
    turn, place = [[0.0, 0.0, -1.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]], [distance, 0.0, 0.0]
    camera = {"id": 0, "img_name": "front", "position": place, "rotation": turn, **CAMERA}
    chunk = {"type": "splat", "size": texture.nbytes, "texwidth": 4 * ROW, "texheight": rows, "cameras": [camera]}
    head = json.dumps([chunk]).encode("ascii")
    write_bytes(Path(path), np.array([MAGIC, len(head)], "<u4").tobytes() + head + texture.astype("<u4").tobytes())
    return Path(path)


def positions_of(words: NDArray[np.uint32], time: float) -> Numbers:
    """Return [N, 3], where the Gaussians of a texture [N, 16] are at a time in [0, 1], as the player computes it."""
    motion, dt = _floats(words[:, 8:13])[:, :9], time - _floats(words[:, 15:16])[:, :1]
    first, second, third = motion[:, 0:3], motion[:, 3:6], motion[:, 6:9]
    return words[:, :3].copy().view(np.float32) + first * dt + second * dt**2 + third * dt**3


def read_splatv(path: Path | str) -> tuple[NDArray[np.uint32], list[dict[str, Any]]]:
    """Return (texture [N, 16] without filling, chunks of the header). Raises: AssetError if it is no whole .splatv file."""
    try:
        data = Path(path).read_bytes()
        magic, length = np.frombuffer(data, "<u4", 2).tolist()
        if magic != MAGIC:
            raise ValueError(f"its first word is {magic:#x}, not {MAGIC:#x}")
        chunks = json.loads(data[8 : 8 + length])
        texture = np.frombuffer(data[8 + length :], "<u4", chunks[0]["size"] // 4).reshape(-1, WORDS).astype(np.uint32)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise AssetError(f"'{path}' cannot be read as .splatv ({error}). Export the run again.", path) from error
    return texture[_floats(texture[:, 15:16])[:, 1] > 0.02], chunks


def fit_error(frames: Sequence[Splats], is_loop: bool = False) -> float:
    """Return the root mean square distance between the frames' places and the cubics, world units."""
    places = np.stack([frame.means for frame in frames]).astype(np.float64)
    powers, found = _cubic(places, np.asarray(frame_times(len(frames), is_loop)))
    return float(np.sqrt(np.square(np.einsum("fk,knc->fnc", powers, found) - places).sum(axis=2).mean()))


def _cubic(values: Numbers, times: Numbers) -> tuple[Numbers, Numbers]:
    """Return powers [F, 4] of dt and the coefficients [4, N, C] of the closest cubics through `values` [F, N, C]."""
    powers = (times - CENTRE)[:, None] ** np.arange(4)
    found = np.linalg.lstsq(powers[:, : len(times)], values.reshape(len(times), -1), rcond=None)[0]
    whole = np.zeros((4, found.shape[1]))
    whole[: len(found)] = found
    return powers, whole.reshape(4, *values.shape[1:])


def _words(frames: Sequence[Splats], times: Numbers) -> NDArray[np.uint32]:
    first, count = frames[0], len(frames[0])
    path = _cubic(np.stack([frame.means for frame in frames]).astype(np.float64), times)[1]
    spins = _continuous(np.stack([frame.quats for frame in frames]).astype(np.float64))
    steps = np.stack([np.ones_like(times), times - CENTRE], axis=1)
    turn, omega = np.linalg.lstsq(steps, spins.reshape(len(times), -1), rcond=None)[0].reshape(2, count, 4)
    opacity = 1.0 / (1.0 + np.exp(-first.opacity_logits.astype(np.float64)))
    shades = np.concatenate([0.5 + SH_C0 * first.sh0, opacity[:, None]], axis=1)
    nothing = np.zeros((count, 1))
    words = np.zeros((count, WORDS), np.uint32)
    words[:, 0:3] = path[0].astype(np.float32).view(np.uint32)
    words[:, 3:5] = _halves(turn)
    words[:, 5:7] = _halves(np.concatenate([np.exp(first.log_scales), nothing], axis=1))
    words[:, 7] = np.round(255.0 * shades.clip(0.0, 1.0)).astype(np.uint8).view("<u4")[:, 0]
    words[:, 8:13] = _halves(np.concatenate([*path[1:], nothing], axis=1))
    words[:, 13:15] = _halves(omega)
    words[:, 15:16] = _halves(np.full((count, 2), [CENTRE, ALWAYS]))
    return words


def _continuous(quats: Numbers) -> Numbers:
    """Return quaternions [F, N, 4] of length 1 whose signs follow each other: q and -q are the same rotation."""
    unit = quats / np.linalg.norm(quats, axis=-1, keepdims=True)
    flips = np.where((unit[1:] * unit[:-1]).sum(axis=-1) < 0, -1.0, 1.0)
    unit[1:] *= np.cumprod(flips, axis=0)[..., None]
    return unit


def _halves(values: Numbers) -> NDArray[np.uint32]:
    """Return [N, K / 2] words of [N, K] numbers as half floats, the first of a pair in the low bits."""
    halves: NDArray[np.uint32] = np.ascontiguousarray(values, "<f2").view("<u4")
    return halves


def _floats(words: NDArray[np.uint32]) -> Numbers:
    """Return [N, 2 K] numbers of [N, K] words."""
    return np.ascontiguousarray(words, "<u4").view("<f2").astype(np.float64)
