"""A sketch seen by a camera, as SVG: still, as a sequence of frames, or animated.

The picture of a stroke is a rational cubic, which SVG does not have. Each segment is cut into m equal pieces of its
parameter, and each piece becomes the ordinary cubic with the exact places and slopes at both ends; m is doubled until
the curve is within `TOLERANCE_PX` of the exact one (at most 16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from torch import Tensor

from sds3d import bezier
from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import write_bytes
from sds3d.export.sketch.sketch import Sketch, Values

TOLERANCE_PX = 0.1
MOST_PIECES = 16
_CHECKED = 33
WIDTH_VARIES = 1.2
"""A stroke whose width changes by more than this factor becomes a filled outline."""


@dataclass(frozen=True)
class Paths:
    """The strokes of F frames in one picture.

    Args:
        cubics: N arrays [F, pieces, 4, 2] of ordinary cubics, pixels. radii: N arrays [F, pieces + 1] at their ends.
        depth: [N] mean camera z. index: [N] which strokes of the sketch these are.
    """

    cubics: list[Values]
    radii: list[Values]
    depth: Values
    index: list[int]


def paths_of(sketch: Sketch, camera: Cameras, frames: Sequence[int] = (0,)) -> Paths:
    """Return the strokes of some frames as `camera` (one) sees them, far ones first.

    A stroke with a part behind the camera in one of the frames is left out: it has no picture of one piece.
    Raises: ShapeError if there is more than one camera; AssetError if no stroke is left.
    """
    if len(camera) != 1:
        raise ShapeError("camera", "exactly 1 camera", (len(camera),))
    world_to_cam, intrinsics = camera.world_to_cam[0].double(), camera.intrinsics[0].double()
    focal = (intrinsics[0, 0] * intrinsics[1, 1]).sqrt()
    points = torch.from_numpy(np.stack([sketch.points_at(frame) for frame in frames]))  # [F, N, K, 3]
    weights = torch.ones(points.shape[1:3]).double() if sketch.weights is None else torch.from_numpy(sketch.weights)
    controls = bezier.homogeneous(points, world_to_cam, intrinsics)
    widths = torch.from_numpy(np.stack([sketch.half_widths_at(frame) for frame in frames]))
    cubics, radii, depths, index = [], [], [], []
    for n in range(len(sketch)):
        parts = bezier.segments(controls[:, n])  # [F, M, 4, 3]
        heavy = bezier.segments(weights[n][None, :, None])[..., 0].expand(len(frames), -1, -1)
        depth = bezier.rational(parts, heavy, torch.linspace(0, 1, _CHECKED).double())[2]
        if float(depth.min()) <= bezier.NEAR:
            continue
        cubic, ends = _hermite(parts, heavy)
        cubics.append(cubic.numpy())
        radii.append(bezier.radius_in_picture(widths[:, n, None], ends, focal, camera.height).numpy())
        depths.append(float(depth.mean()))
        index.append(n)
    if not index:
        raise AssetError(
            f"None of the {len(sketch)} strokes is wholly in front of the camera, at least 1 must be. Move the camera away."
        )
    order = np.argsort(depths)[::-1]
    return Paths(
        [cubics[i] for i in order], [radii[i] for i in order], np.array(depths)[order], [index[i] for i in order]
    )


def _hermite(controls: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return cubics [F, pieces, 4, 2] and camera z at their ends [F, pieces + 1] of segments [F, M, 4, 3]."""
    pieces = 1
    while True:
        t = torch.linspace(0.0, 1.0, pieces + 1, dtype=torch.float64)
        value, slope, depth = bezier.rational(controls, weights, t)
        step = slope / (3.0 * pieces)
        parts = [
            value[:, :, :-1],
            value[:, :, :-1] + step[:, :, :-1],
            value[:, :, 1:] - step[:, :, 1:],
            value[:, :, 1:],
        ]
        cubics = torch.stack(parts, dim=3)  # [F, M, pieces, 4, 2]
        within = torch.linspace(0.0, 1.0, (_CHECKED - 1) // pieces + 1, dtype=torch.float64)
        fine = ((torch.arange(pieces)[:, None] + within) / pieces).flatten()
        exact = bezier.rational(controls, weights, fine)[0]
        drawn = (bezier.bernstein(within) @ cubics).flatten(2, 3)
        if pieces >= MOST_PIECES or float((drawn - exact).norm(dim=-1).max()) < TOLERANCE_PX:
            ends = torch.cat([depth[:, :, :-1].flatten(1, 2), depth[:, -1, -1:]], dim=1)
            return cubics.flatten(1, 2), ends
        pieces *= 2


def encode(
    sketch: Sketch, camera: Cameras, frames: Sequence[int] = (0,), background: str | None = "white", title: str = ""
) -> str:
    """Return an SVG document of one camera's picture; more than one frame: animated, ending as the motion does.

    background: a colour of SVG, None: transparent. The prompt goes into the metadata, `title` (or the prompt) on top.
    Raises: as `paths_of`.
    """
    paths = paths_of(sketch, camera, frames)
    width, height = camera.width, camera.height
    name = escape(title or sketch.prompt or "sketch")
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f"<title>{name}</title>",
        f"<metadata>{escape(sketch.prompt)}</metadata>",
    ]
    if background is not None:
        lines.append(f'<rect width="{width}" height="{height}" fill="{escape(background)}"/>')
    is_loop = sketch.motion is not None and sketch.motion.is_loop
    keys = [*range(len(frames)), 0] if is_loop and len(frames) > 1 else list(range(len(frames)))
    duration = (len(keys) - 1) / sketch.motion.fps if sketch.motion is not None and len(keys) > 1 else 0.0
    for cubics, radii, n in zip(paths.cubics, paths.radii, paths.index, strict=True):
        lines.append(_path(sketch, n, cubics[keys], radii[keys], duration))
    return "\n".join([*lines, "</svg>", ""])


def write_svg(path: Path | str, sketch: Sketch, camera: Cameras, frame: int = 0) -> Path:
    """Write one frame as one camera sees it and return the path. Raises: AssetError, also if nothing is visible."""
    return write_bytes(path, encode(sketch, camera, (frame,)).encode())


def write_animated_svg(path: Path | str, sketch: Sketch, camera: Cameras) -> Path:
    """Write all frames as one animated SVG and return the path. Raises: AssetError, also if the sketch does not move."""
    if sketch.motion is None:
        raise AssetError(f"'{path}' was not written: the sketch has 1 frame, 2 are needed. Write a still SVG.", path)
    return write_bytes(path, encode(sketch, camera, range(sketch.frames)).encode())


def write_views(folder: Path | str, sketch: Sketch, cameras: Cameras, name: str = "turn") -> list[Path]:
    """Write `name_000.svg` and so on, one a camera, and return the paths; a moving sketch plays once meanwhile."""
    total = len(cameras)
    return [
        write_svg(Path(folder) / f"{name}_{i:03d}.svg", sketch, cameras[i : i + 1], i * sketch.frames // total)
        for i in range(total)
    ]


def write_frames(folder: Path | str, sketch: Sketch, camera: Cameras, name: str = "frame") -> list[Path]:
    """Write `name_000.svg` and so on, one a frame seen by one camera, and return the paths."""
    return [
        write_svg(Path(folder) / f"{name}_{frame:03d}.svg", sketch, camera, frame) for frame in range(sketch.frames)
    ]


def _path(sketch: Sketch, n: int, cubics: Values, radii: Values, duration: float) -> str:
    """Return the element of one stroke; cubics [keys, pieces, 4, 2]."""
    red, green, blue = (round(255 * float(value)) for value in np.clip(sketch.colours[n], 0.0, 1.0))
    colour, opacity = f"rgb({red},{green},{blue})", f"{sketch.opacities[n]:.4g}"
    is_outline = float((radii.max(axis=1) / radii.min(axis=1)).max()) > WIDTH_VARIES
    if is_outline:
        shapes = [_outline(c, r) for c, r in zip(cubics, radii, strict=True)]
        style, widths = f'fill="{colour}" fill-opacity="{opacity}" stroke="none"', ["0"]
    else:
        shapes = [_curve(c) for c in cubics]
        widths = [f"{2.0 * row.mean():.4g}" for row in radii]  # SVG counts the whole width
        style = (
            f'fill="none" stroke="{colour}" stroke-opacity="{opacity}" stroke-linecap="round" stroke-linejoin="round" '
            f'stroke-width="{widths[0]}"'
        )
    head = f'<path d="{shapes[0]}" {style}'
    if len(shapes) == 1:
        return head + "/>"
    moves = [_animate("d", shapes, duration)]
    if len(set(widths)) > 1:
        moves.append(_animate("stroke-width", widths, duration))
    return f"{head}>{''.join(moves)}</path>"


def _animate(attribute: str, values: list[str], duration: float) -> str:
    return (
        f'<animate attributeName="{attribute}" dur="{duration:.6g}s" repeatCount="indefinite" calcMode="linear" '
        f'values="{";".join(values)}"/>'
    )


def _curve(cubics: Values) -> str:
    """Return path data of cubics [pieces, 4, 2]."""
    words = [f"M{_pair(cubics[0, 0])}"]
    words += [f"C{_pair(c[1])} {_pair(c[2])} {_pair(c[3])}" for c in cubics]
    return "".join(words)


def _outline(cubics: Values, radii: Values, samples: int = 8) -> str:
    """Return path data of the outline of a line whose radius [pieces + 1] changes, with round ends."""
    t = torch.arange(samples, dtype=torch.float64) / samples
    curve = torch.from_numpy(cubics)
    places = np.vstack([(bezier.bernstein(t) @ curve).flatten(0, 1).numpy(), cubics[-1, 3]])
    at = np.arange(len(places)) / samples
    radius = np.interp(at, np.arange(len(radii)), radii)
    tangents = np.gradient(places, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-9)
    side = radius[:, None] * np.stack([-tangents[:, 1], tangents[:, 0]], axis=1)
    left, right = places + side, (places - side)[::-1]
    words = [f"M{_pair(left[0])}", *(f"L{_pair(p)}" for p in left[1:])]
    words.append(f"A{radius[-1]:.3f} {radius[-1]:.3f} 0 0 0 {_pair(right[0])}")
    words += [f"L{_pair(p)}" for p in right[1:]]
    words.append(f"A{radius[0]:.3f} {radius[0]:.3f} 0 0 0 {_pair(left[0])}Z")
    return "".join(words)


def _pair(place: Values) -> str:
    return f"{place[0]:.3f} {place[1]:.3f}"
