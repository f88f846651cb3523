"""The files of a sketch: its curves, drawings of them as vectors, a page, and tubes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from renderers.base import Renderer
from renderers.sketch.renderer import SketchRenderer
from sds3d.cameras import turntable
from sds3d.config import Recipe
from sds3d.errors import ConfigError
from sds3d.export import FORMATS
from sds3d.export.sketch.sketch import Sketch

SIDES = ("front", "left", "back", "right")
"""Names of the drawings, from azimuth 0 on in quarter turns; the first is that of `FORMATS`."""
ELEVATION_DEG = 20.0
"""Height of the cameras, that of the other pictures of a run."""


def sketch_of(renderer: Renderer, recipe: Recipe) -> Sketch:
    """Return the living strokes of the renderer with the prompt. Raises: ConfigError for another kind of asset."""
    if not isinstance(renderer, SketchRenderer):
        raise ConfigError(
            "This asset has no strokes, so it cannot be written as a sketch (json, svg, html). Write glb, obj, mesh_ply or "
            "stl, or end the recipe with a stage whose renderer.kind is sketch.",
            "export.formats",
        )
    return renderer.to_sketch(recipe.prompt.text)


def write_sketch(name: str, folder: Path, sketch: Sketch, recipe: Recipe) -> list[Path]:
    """Write `sketch` as the format `name` (json, svg, html or glb) into `folder` and return the files.

    Raises: AssetError if a file cannot be written, or an SVG would show no stroke.
    """
    path = folder / FORMATS[name].file_name
    distance, fov = sum(recipe.cameras.distance) / 2, recipe.cameras.fov_deg
    if name == "json":
        from sds3d.export.sketch.json import write_json

        return [write_json(path, sketch)]
    if name == "html":
        from sds3d.export.sketch.html import write_html

        return [write_html(path, sketch, distance=distance, fov_deg=fov, elevation_deg=ELEVATION_DEG)]
    if name == "glb":
        from sds3d.export.sketch.gltf import write_glb

        return [write_glb(path, sketch)]
    from sds3d.export.sketch.svg import write_svg

    cameras = turntable(len(SIDES), recipe.export.size, ELEVATION_DEG, distance, fov)
    return [write_svg(folder / f"{side}.svg", sketch, cameras[k : k + 1]) for k, side in enumerate(SIDES)]


def is_sketch_file(name: str, renderer: Renderer) -> bool:
    """Return whether format `name` of this asset is written by `write_sketch`: the formats of sketches, and tubes as glTF."""
    return name in _OF_SKETCHES or (name == "glb" and isinstance(renderer, SketchRenderer))


_OF_SKETCHES: Sequence[str] = ("json", "svg", "html")
