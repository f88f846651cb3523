"""Drawings of toybox objects: what strokes that were distilled well might look like. Data for the judge of drawings."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.sketch import initialise
from renderers.sketch.mesh_edges import polylines
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import Strokes
from sds3d.cameras import orbit
from sds3d.config.sketch import SketchConfig
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Mesh
from sds3d.toybox.dataset import FOV_DEG, IMAGE_SIZE, RECORD, build, draw_description, draw_orbit
from sds3d.toybox.judge import NO_COLOUR
from sds3d.toybox.palette import COLORS, NOUNS

STYLES = ("lines", "scribble")
"""lines: sharp edges and outlines of the object; scribble: short strokes all over its surface."""
_SURFACE_POINTS = 600
_NAMES = list(COLORS)


@dataclass(frozen=True, kw_only=True)
class DrawingsConfig:
    """Which drawings a set holds: `objects` specimens, each drawn in both styles and seen from `views` sides.

    The seed says which specimens; `pairs` as in `sds3d.toybox.dataset.SetConfig`.
    """

    objects: int = 1440
    views: int = 3
    seed: int = 1000
    pairs: str = "all"


def draw_set(config: DrawingsConfig) -> tuple[NDArray[np.uint8], NDArray[np.void]]:
    """Return (images [N, 64, 64, 4] premultiplied RGBA, records [N]) of a set, in order; equal configurations, equal sets.

    Records are those of the rendered sets; drawings in black ink have the colour `NO_COLOUR`.
    """
    size = config.objects * len(STYLES) * config.views
    images, records = np.zeros((size, IMAGE_SIZE, IMAGE_SIZE, 4), np.uint8), np.zeros(size, RECORD)
    row = 0
    for number in range(config.objects):
        rng = np.random.default_rng([config.seed, number])
        what = draw_description(number, config.pairs, rng)
        mesh = mesh_from_toy(build(what, rng))
        for style in STYLES:
            is_black = bool(rng.random() < 0.3)
            strokes = strokes_of_toy(mesh, style, rng, is_black=is_black)
            views = draw_orbit(config.views, rng)
            images[row : row + config.views] = pictures(strokes, views, softness=float(rng.uniform(0.4, 0.8)))
            colour = NO_COLOUR if is_black else _NAMES.index(what.color)
            for view in views:
                records[row] = (NOUNS.index(what.noun), colour, 0, what.is_striped, what.has_base, *view.tolist())
                row += 1
    return images, records


def strokes_of_toy(mesh: Mesh, style: str, rng: np.random.Generator, *, is_black: bool = False) -> Strokes:
    """Return a drawing of a mesh: one of `STYLES`, with strokes of random number, width, ink and wobble.

    Colours are those of the mesh under the middle of each stroke, with is_black: all black.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    count = int(rng.integers(32, 129))
    vertices, colors = torch.from_numpy(mesh.vertices).float(), torch.from_numpy(mesh.colors).float()
    if style == "lines":
        points = initialise.along_polylines(polylines(mesh, count))
        nearest = torch.cdist(points.mean(dim=1), vertices).argmin(dim=1)
        tint = colors[nearest]
    else:
        from sds3d.meshing.points import points_on

        surface = points_on(mesh, _SURFACE_POINTS, int(rng.integers(2**31)))
        places = torch.from_numpy(surface.positions).float()
        longest = float(rng.uniform(0.15, 0.4))
        points = initialise.on_points(places, count, generator, length=(0.5 * longest, longest))
        nearest = torch.cdist(points.mean(dim=1), places).argmin(dim=1)
        tint = torch.from_numpy(surface.colors).float()[nearest]
    wobble = float(rng.uniform(0.0, 0.03))
    points = points + wobble * torch.randn(points.shape, generator=generator)
    points = points + 0.5 * wobble * torch.randn(len(points), 1, 3, generator=generator)
    kept = torch.rand(len(points), generator=generator) >= float(rng.uniform(0.0, 0.25))
    kept[0] = True
    return Strokes.of(
        points[kept],
        half_width=float(np.exp(rng.uniform(np.log(0.006), np.log(0.03)))),
        opacity=float(rng.uniform(0.6, 0.98)),
        colour=torch.zeros(3) if is_black else tint[kept].clamp(0.0, 1.0),
    )


@torch.no_grad()
def pictures(strokes: Strokes, views: NDArray[np.float32], softness: float = 0.5) -> NDArray[np.uint8]:
    """Return [V, 64, 64, 4] premultiplied RGBA of strokes seen from views [V, 3] (azimuth, elevation, distance)."""
    at = torch.from_numpy(views)
    cameras = orbit(at[:, 0], at[:, 1], at[:, 2], FOV_DEG, IMAGE_SIZE, IMAGE_SIZE)
    config = SketchConfig.model_validate({"softness": softness})
    render = SketchRenderer(strokes, config).show(cameras, torch.zeros(len(views), 3))
    rgba: Tensor = torch.cat([render.rgb, render.alpha], dim=-1).clamp(0.0, 1.0)
    return (255.0 * rgba).round().byte().numpy()
