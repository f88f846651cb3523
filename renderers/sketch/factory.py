"""Sketches as a configuration describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from renderers.sketch import initialise
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import GROUPS, Strokes
from sds3d.config.sketch import SHAPES, SketchConfig
from sds3d.export.sketch.sketch import Sketch
from sds3d.meshing.mesh import Mesh


def sketch_renderer(config: SketchConfig, generator: torch.Generator, *, steps: int = 1000) -> SketchRenderer:
    """Return the sketch a run of `steps` steps starts from; all draws come from the CPU generator.

    Raises: AssetError if `config.init` is a file that cannot be read.
    """
    seed = int(torch.randint(2**31, (), generator=generator))
    return SketchRenderer(initial_strokes(config, generator), config, steps=steps, seed=seed)


def initial_strokes(config: SketchConfig, generator: torch.Generator) -> Strokes:
    """Return the strokes `config.init` names. Raises: AssetError."""
    if config.init in SHAPES:
        shape = {"segments": config.segments, "length": config.init_length}
        points = initialise.in_sphere(config.count, config.init_radius, generator, **shape)  # type: ignore[arg-type]
        return _with_ink(points, config)
    ending = config.init.lower().rsplit(".", 1)[-1]
    if ending == "json":
        from sds3d.export.sketch.json import read_json

        return strokes_of(read_json(config.init), config)
    if ending == "svg":
        from sds3d.export.sketch.read_svg import read_svg

        flat = torch.from_numpy(read_svg(config.init))
        return _with_ink(initialise.lifted(flat, generator, size=config.init_size or 0.8), config)
    from sds3d.export.start import read_start_mesh

    return _with_ink(points_of_mesh(read_start_mesh(config.init, config.init_size)[0], config), config)


def from_mesh(mesh: Mesh, config: SketchConfig, generator: torch.Generator, *, steps: int = 1000) -> SketchRenderer:
    """Return a sketch whose strokes follow the sharp edges and outlines of a mesh (the asset of another stage)."""
    seed = int(torch.randint(2**31, (), generator=generator))
    return SketchRenderer(_with_ink(points_of_mesh(mesh, config), config), config, steps=steps, seed=seed)


def from_state(saved: Mapping[str, Any], config: SketchConfig, *, steps: int = 1000) -> SketchRenderer:
    """Return the sketch of a checkpoint: everything its `state_dict` held."""
    strokes = Strokes(**{name: saved.get(name) for name in GROUPS})  # type: ignore[arg-type]
    renderer = SketchRenderer(strokes, config, steps=steps)
    renderer.load_state_dict(saved)
    return renderer


def strokes_of(sketch: Sketch, config: SketchConfig) -> Strokes:
    """Return the strokes of a file, at rest; those of a plain sketch get weights of 1 if the configuration wants some."""
    points = torch.from_numpy(sketch.points).float()
    if config.init_size is not None:
        middle = 0.5 * (points.amin(dim=(0, 1)) + points.amax(dim=(0, 1)))
        points = points - middle
        points = points * (config.init_size / points.norm(dim=-1).amax().clamp_min(1e-9))
    weights = None if sketch.weights is None else torch.from_numpy(sketch.weights).float()
    if weights is None and config.rational:
        weights = torch.ones(points.shape[:2])
    return Strokes.of(
        points,
        half_width=torch.from_numpy(sketch.half_widths),
        opacity=torch.from_numpy(sketch.opacities),
        colour=torch.from_numpy(sketch.colours),
        weights=weights,
    )


def points_of_mesh(mesh: Mesh, config: SketchConfig) -> Tensor:
    """Return control points along the lines of a mesh. Raises: AssetError if it has none."""
    from renderers.sketch.mesh_edges import polylines

    return initialise.along_polylines(polylines(mesh, config.count), config.segments)


def _with_ink(points: Tensor, config: SketchConfig) -> Strokes:
    return Strokes.of(
        points.float(),
        half_width=config.half_width,
        opacity=config.init_opacity,
        colour=config.colour,
        weights=torch.ones(points.shape[:2]) if config.rational else None,
    )
