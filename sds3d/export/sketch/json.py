"""Our own file of a sketch: everything, as curves, with six significant digits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from sds3d.errors import AssetError, ShapeError
from sds3d.export.atomic import write_bytes
from sds3d.export.sketch.sketch import Motion, Sketch

FORMAT, VERSION = "sds3d.sketch", 1


def tree_of(sketch: Sketch) -> dict[str, Any]:
    """Return the contents of the file: strokes in the world frame of `sds3d.conventions`, frames, motion, prompt."""
    motion = sketch.motion
    strokes = [
        {
            "points": _rounded(sketch.points[n]),
            "weights": None if sketch.weights is None else _rounded(sketch.weights[n]),
            "half_width": _rounded(sketch.half_widths[n]),
            "opacity": _rounded(sketch.opacities[n]),
            "colour": _rounded(sketch.colours[n]),
        }
        for n in range(len(sketch))
    ]
    return {
        "format": FORMAT,
        "version": VERSION,
        "frames": sketch.frames,
        "fps": None if motion is None else motion.fps,
        "loop": motion is not None and motion.is_loop,
        "up": "+Z",
        "unit": "scene",
        "prompt": sketch.prompt,
        "strokes": strokes,
        "motion": None
        if motion is None
        else {
            "similarity": _rounded(motion.similarity),
            "centre": _rounded(motion.centre),
            "offsets": None if motion.offsets is None else _rounded(motion.offsets),
        },
    }


def write_json(path: Path | str, sketch: Sketch) -> Path:
    """Write a sketch and return the path. Raises: AssetError if the file cannot be written."""
    return write_bytes(path, json.dumps(tree_of(sketch), separators=(",", ":")).encode())


def read_json(path: Path | str) -> Sketch:
    """Read a sketch that `write_json` wrote.

    Raises: AssetError if the file is missing, no sketch, of a newer version, empty or not complete.
    """
    try:
        tree = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _refused(path, f"it is no readable JSON file ({error})") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise _refused(path, f"its 'format' is not '{FORMAT}'")
    if tree.get("version") != VERSION:
        raise _refused(path, f"its version is {tree.get('version')!r}")
    try:
        if not tree["strokes"]:
            raise _refused(path, "it has 0 strokes, but at least 1 is needed")
        return _sketch(tree)
    except (KeyError, IndexError, TypeError, ValueError, ShapeError) as error:
        raise _refused(path, f"its strokes are not complete ({error!r})") from error


def _sketch(tree: dict[str, Any]) -> Sketch:
    strokes, motion = tree["strokes"], tree.get("motion")
    weights = [stroke.get("weights") for stroke in strokes]
    points = np.array([stroke["points"] for stroke in strokes], np.float64)
    has_weights = any(row is not None for row in weights)
    plain = [1.0] * points.shape[1]
    return Sketch(
        points=points,
        half_widths=np.array([stroke["half_width"] for stroke in strokes], np.float64),
        opacities=np.array([stroke["opacity"] for stroke in strokes], np.float64),
        colours=np.array([stroke["colour"] for stroke in strokes], np.float64),
        weights=np.array([row or plain for row in weights], np.float64) if has_weights else None,
        motion=None
        if motion is None
        else Motion(
            similarity=np.array(motion["similarity"], np.float64),
            centre=np.array(motion["centre"], np.float64),
            offsets=None if motion.get("offsets") is None else np.array(motion["offsets"], np.float64),
            fps=float(tree["fps"]),
            is_loop=bool(tree["loop"]),
        ),
        prompt=str(tree.get("prompt", "")),
    )


def _rounded(values: Any) -> Any:
    """Return numbers as nested lists with six significant digits."""
    array = np.asarray(values, np.float64)
    if array.ndim:
        return [_rounded(row) for row in array]
    return float(f"{array:.6g}")


def _refused(path: Path | str, why: str) -> AssetError:
    return AssetError(
        f"'{path}' cannot be read as a sketch: {why}. A '{FORMAT}' file of version {VERSION} is needed: export one with "
        "--format json.",
        path,
    )
