"""A page of one file that shows a sketch: drag to orbit, wheel to come nearer, play where it moves. Works offline."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

from sds3d.export.atomic import write_bytes
from sds3d.export.sketch.json import tree_of
from sds3d.export.sketch.sketch import Sketch

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
html, body {{ margin: 0; height: 100%; background: white; font: 14px system-ui, sans-serif; }}
canvas {{ display: block; width: 100%; height: 100%; touch-action: none; cursor: grab; }}
nav {{ position: fixed; left: 12px; bottom: 12px; display: flex; gap: 8px; align-items: center; }}
h1 {{ position: fixed; left: 12px; top: 12px; margin: 0; font-size: 15px; font-weight: 500; color: #444; }}
</style>
</head>
<body>
<canvas id="picture" aria-label="{title}"></canvas>
<h1>{title}</h1>
<nav><button id="play">Play</button><input id="frame" type="range" min="0" max="1" step="0.01" value="0" aria-label="frame">
<button id="spin">Turn</button></nav>
<script type="application/json" id="view">{view}</script>
<script type="application/json" id="sketch">{sketch}</script>
<script>{program}</script>
</body>
</html>
"""


def encode(
    sketch: Sketch,
    *,
    azimuth_deg: float = 30.0,
    elevation_deg: float = 20.0,
    distance: float = 2.5,
    fov_deg: float = 45.0,
    plays: bool = True,
    turns: bool = False,
) -> str:
    """Return the page. The camera is that of `cameras.orbit`; `plays` and `turns` say what moves when it opens."""
    view = {"azimuth": azimuth_deg, "elevation": elevation_deg, "distance": distance, "fov": fov_deg}
    program = (Path(__file__).parent / "viewer.js").read_text(encoding="utf-8")
    return _PAGE.format(
        title=escape(sketch.prompt or "sketch"),
        view=json.dumps(view | {"play": plays, "spin": turns}),
        sketch=json.dumps(tree_of(sketch), separators=(",", ":")).replace("<", "\\u003c"),
        program=program,
    )


def write_html(path: Path | str, sketch: Sketch, **view: float | bool) -> Path:
    """Write the page (see `encode`) and return the path. Raises: AssetError if the file cannot be written."""
    return write_bytes(path, encode(sketch, **view).encode())  # type: ignore[arg-type]
