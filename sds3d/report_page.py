"""The report of a run as one HTML page: a viewer of the mesh, pictures, settings, timings, citations.

The page needs no network and no server: script, style, mesh and pictures are inside it.
"""

from __future__ import annotations

import base64
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sds3d import __version__
from sds3d.export import FORMATS
from sds3d.export.atomic import write_bytes
from sds3d.export.light_turn import FILE_NAME as LIGHT_TURN
from sds3d.export.light_turn import light_slider
from sds3d.run import RunFolder

FILE_NAME = "report.html"
LARGEST_MB = 32
"""Meshes and films larger than this are linked instead of carried inside."""
_PREVIEWS = 8
"""Previews that are shown, evenly chosen from all of them."""
_COLUMNS = 6
"""Rows with more values than this are lists, not tables."""
_PARTS = Path(__file__).parent / "export" / "page"
_MODES = ("Shaded", "Colours", "Normals", "Clay")
_SHOWN_ELSEWHERE = ("prompt", "recipe", "status", "citations", "files", "command", "schema")
_TYPES = {".png": "image/png", ".gif": "image/gif", ".mp4": "video/mp4"}


def write_report_page(run: RunFolder) -> Path:
    """Write report.html into the run folder from what the run has written so far, and return the path.

    It shows whatever is there: export/mesh.glb in a viewer (turn, zoom; as rendered, colours, normals, clay), the contact
    sheet and the turntable, the asset under a turning light (a slider), previews, metrics.json, run.json, recipe.yaml. A
    sketch is shown by its own page (export/sketch.html);
    a run without both gets no viewer.

    Raises: AssetError if run.json or metrics.json cannot be read, or the page cannot be written.
    Limits: the viewer needs WebGL 2; meshes and films above 32 MB are linked, so that page needs its folder.
    """
    info, metrics = run.read_info(), run.read_metrics()
    title = str(info.get("prompt") or run.path.name)
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(_subtitle(info))}</p>',
        *_viewer(run),
        *light_slider(run.export / LIGHT_TURN),
        *_pictures(run),
        *_section("Numbers", _table(metrics)),
        *_section("Run", _table({key: value for key, value in info.items() if key not in _SHOWN_ELSEWHERE})),
        *_settings(run, info),
        *_section("Please cite", _list(info.get("citations", ()))),
        *_files(run),
        f'<p class="soft">Written by sds3d {escape(__version__)}.</p>',
        *_script(run),
    ]
    style = (_PARTS / "page.css").read_text(encoding="utf-8")
    head = '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    # "data:," keeps browsers from asking for an icon.
    head += f'<title>{escape(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>'
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n'
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
    return write_bytes(run.path / FILE_NAME, page.encode())


def _subtitle(info: Mapping[str, Any]) -> str:
    facts = [f"recipe {info['recipe']}" if info.get("recipe") else "", str(info.get("status", ""))]
    seconds = info.get("seconds")
    if isinstance(seconds, int | float) and seconds > 0:
        facts.append(f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min")
    return " · ".join(fact for fact in facts if fact)


def _mesh_file(run: RunFolder) -> Path | None:
    """Return the mesh to be shown, None if there is none, it is too large to be carried, or a tube without shading."""
    file = run.export / FORMATS["glb"].file_name
    if not file.is_file() or file.stat().st_size > LARGEST_MB * 2**20 or _sketch_page(run) is not None:
        return None
    return file if b'"NORMAL"' in file.read_bytes() else None


def _sketch_page(run: RunFolder) -> Path | None:
    """Return the page on which a sketch can be turned, if there is one."""
    file = run.export / FORMATS["html"].file_name
    return file if file.is_file() else None


def _viewer(run: RunFolder) -> Iterator[str]:
    sketch = _sketch_page(run)
    if sketch is not None:
        page = escape(sketch.read_text(encoding="utf-8"))
        yield '<div class="stage">'
        yield f'<iframe title="The sketch; drag to turn it" sandbox="allow-scripts" srcdoc="{page}"></iframe></div>'
    if _mesh_file(run) is None:
        return
    yield '<div class="stage">'
    yield '<canvas id="viewer" tabindex="0" role="img" aria-label="The mesh; drag or use the arrow keys to turn it"></canvas>'
    yield '<div class="bar">'
    for number, name in enumerate(_MODES):
        yield f'<button data-mode="{number}" aria-pressed="{"false" if number else "true"}">{name}</button>'
    yield f'<a class="button" id="download" download="{FORMATS["glb"].file_name}" href="#">Download GLB</a>'
    yield '<span class="soft" id="viewer-note">drag to turn, wheel to zoom, double click to reset</span></div></div>'


def _script(run: RunFolder) -> Iterator[str]:
    file = _mesh_file(run)
    if file is not None:
        yield f'<script type="application/octet-stream" id="asset">{base64.b64encode(file.read_bytes()).decode()}</script>'
        yield f"<script>\n{(_PARTS / 'viewer.js').read_text(encoding='utf-8')}</script>"


def _pictures(run: RunFolder) -> Iterator[str]:
    shown = [
        figure
        for name, text in (("png", "Views around the asset"), ("mp4", "Turntable"))
        for figure in _figure(run, name, text)
    ]
    if not any("<video" in figure for figure in shown):
        shown += _figure(run, "gif", "Turntable")
    if shown:
        yield from ("<h2>Pictures</h2>", *shown)
    previews = sorted(run.previews.glob("*.png")) if run.previews.is_dir() else []
    if previews:
        count = min(_PREVIEWS, len(previews))
        chosen = [previews[round(k * (len(previews) - 1) / max(1, count - 1))] for k in range(count)]
        yield '<h2>On the way</h2>\n<div class="row">'
        yield from (
            f'<figure><img alt="{escape(p.stem)}" src="{_data(p)}"><figcaption>{escape(p.stem)}</figcaption></figure>'
            for p in chosen
        )
        yield "</div>"


def _figure(run: RunFolder, name: str, text: str) -> list[str]:
    """Return the picture or film of a format as a figure, or nothing if it was not written or is too large."""
    file = run.export / FORMATS[name].file_name
    if not file.is_file() or file.stat().st_size > LARGEST_MB * 2**20:
        return []
    if name == "mp4":
        shown = f'<video controls loop muted playsinline src="{_data(file)}"></video>'
    else:
        shown = f'<img alt="{escape(text)}" src="{_data(file)}">'
    return [f"<figure>{shown}<figcaption>{escape(text)}</figcaption></figure>"]


def _data(file: Path) -> str:
    return f"data:{_TYPES[file.suffix.lower()]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _section(title: str, content: str) -> Iterator[str]:
    if content:
        yield f"<h2>{escape(title)}</h2>\n{content}"


def _table(values: Mapping[str, Any]) -> str:
    rows = [
        f"<tr><th>{escape(' / '.join(path).replace('_', ' '))}</th><td>{cell}</td></tr>" for path, cell in _rows(values)
    ]
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _rows(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield (path of names, HTML) for every value that is not empty; values of values are rows of their own."""
    for name, value in values.items():
        path = (*above, str(name))
        if value in ("", None, [], {}, ()):
            continue
        if isinstance(value, Mapping) and not all(_is_plain(part) for part in value.values()):
            yield from _rows(value, path)
        else:
            yield path, _cell(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _cell(value: Any) -> str:
    """Return any value of JSON as HTML: steps as a curve, rows of few columns as a table, the rest as text."""
    if isinstance(value, Mapping):
        shown = {key: part for key, part in value.items() if part not in ("", None, [], {})}
        return " · ".join(f"{escape(str(key).replace('_', ' '))} {_cell(part)}" for key, part in shown.items())
    if not isinstance(value, Sequence) or isinstance(value, str):
        return escape(_text(value))
    if value and all(isinstance(item, Mapping) for item in value):
        if all("step" in item and "loss" in item for item in value):
            return _curve(value)
        return _grid(value) if max(len(item) for item in value) <= _COLUMNS else _list(value)
    return escape(", ".join(_text(item) for item in value)) if all(map(_is_plain, value)) else _list(value)


def _curve(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the loss over the steps as a small drawing with its first, last, smallest and largest value."""
    points = [
        (float(record["step"]), float(record["loss"])) for record in records if isinstance(record["loss"], int | float)
    ]
    if not points:
        return ""
    steps, losses = zip(*points, strict=True)
    low, wide, high = min(losses), (steps[-1] - steps[0]) or 1.0, (max(losses) - min(losses)) or 1.0
    places = " ".join(f"{300 * (x - steps[0]) / wide:.1f},{58 - 56 * (y - low) / high:.1f}" for x, y in points)
    said = f"loss {losses[0]:.4g} at step {steps[0]:.0f}, {losses[-1]:.4g} at step {steps[-1]:.0f}"
    said += f"; between {low:.4g} and {max(losses):.4g}"
    line = f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-width="1.5"/>'
    drawing = f'<svg viewBox="0 0 300 60" width="300" height="60" role="img" aria-label="{said}">{line}</svg>'
    return f'{drawing}<br><span class="soft">{said}</span>'


def _grid(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as a table with a column for every key."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<td>{escape(str(key).replace('_', ' '))}</td>" for key in keys)
    lines = ("".join(f"<td>{_cell(row.get(key, ''))}</td>" for key in keys) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table><tr class="soft">{head}</tr>{body}</table>'


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _list(values: Sequence[Any]) -> str:
    items = "".join(f"<li>{_cell(value)}</li>" for value in values)
    return f"<ul>{items}</ul>" if items else ""


def _settings(run: RunFolder, info: Mapping[str, Any]) -> Iterator[str]:
    command = info.get("command") or ()
    # The first word is the program, "python launch.py"; the others are quoted as a shell wants them.
    text = (
        command if isinstance(command, str) else " ".join([*map(str, command[:1]), shlex.join(map(str, command[1:]))])
    )
    if text or run.recipe_file.is_file():
        yield "<h2>Settings</h2>"
    if text:
        yield f"<pre>{escape(text)}</pre>"
    if run.recipe_file.is_file():
        recipe = run.recipe_file.read_text(encoding="utf-8", errors="replace")
        yield f"<details><summary>recipe.yaml, which alone reproduces the run</summary><pre>{escape(recipe)}</pre></details>"


def _files(run: RunFolder) -> Iterator[str]:
    files = sorted(file for file in run.export.iterdir() if file.is_file()) if run.export.is_dir() else []
    if files:
        links = (f'<a href="export/{escape(file.name)}">{escape(file.name)}</a> ({_size(file)})' for file in files)
        yield "<h2>Files beside this page</h2>\n<ul>" + "".join(f"<li>{link}</li>" for link in links) + "</ul>"


def _size(file: Path) -> str:
    size = file.stat().st_size
    return f"{size / 2**20:.1f} MB" if size >= 2**20 else f"{max(1, size // 1024)} KB"
