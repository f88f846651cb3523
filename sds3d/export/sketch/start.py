"""A look at the sketch a run is to start from, for the time before weights are loaded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sds3d.errors import ConfigError
from sds3d.export.sketch.json import read_json
from sds3d.export.sketch.read_svg import read_svg

SUFFIXES = (".json", ".svg")
_INSIDE = 99.0
"""Per cent of the control points that count: a stray one shall not decide."""
_SMALLEST = 0.02
"""Sketches of a smaller radius are less than a pixel or two wide in training images."""


def check_start(path: Path | str, nearest_camera: float, radius: float | None = None) -> int:
    """Read a file of strokes, see that cameras can look at them, and return how many there are.

    Args:
        path: ends in `SUFFIXES`. nearest_camera: smallest distance of a camera from the origin, world units.
        radius: what the sketch will be scaled to; None keeps its place and size. Drawings are always scaled.
    Raises: AssetError if it cannot be read or holds no strokes; ConfigError if it is too large, too small or out of place,
        so that strokes would be behind the cameras.
    """
    source = Path(path).expanduser()
    if source.suffix.lower() == ".svg":
        return len(read_svg(source))
    points = read_json(source).points
    if radius is not None:
        return len(points)
    places = points.reshape(-1, 3)
    reach = float(np.percentile(np.linalg.norm(places, axis=1), _INSIDE))
    low, high = np.percentile(places, [100.0 - _INSIDE, _INSIDE], axis=0)
    size = 0.5 * float(np.linalg.norm(high - low))
    if not (size >= _SMALLEST and reach < nearest_camera):
        raise ConfigError(
            f"The sketch in '{path}' has radius {size:.3g} and reaches {reach:.3g} from the origin, but the cameras stand "
            f"{nearest_camera:g} away and would have strokes behind them: allowed is a radius of at least {_SMALLEST:g} and "
            "a reach below the cameras'. Give renderer.init_size=0.8 to centre and scale it.",
            "renderer.init_size",
        )
    return len(points)
