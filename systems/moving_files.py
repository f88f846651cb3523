"""The files of an asset that moves: the usual ones of its rest pose, and beside them or inside them its motion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from renderers.dynamic import DynamicRenderer
from renderers.gaussians.renderer import GaussianRenderer
from renderers.sketch.renderer import SketchRenderer
from renderers.surface import SurfaceRenderer
from sds3d.cameras import orbit
from sds3d.clip_times import frame_times
from sds3d.config import Recipe
from sds3d.config.motion import MotionConfig
from sds3d.export.images import to_bytes
from sds3d.export.sketch.sketch import Motion, Sketch
from sds3d.metrics.moving import DENSER, motion_report
from sds3d.run import RunFolder

SIDES_DEG = (0.0, 90.0)
"""Front and side: what the sheet of frames shows, one row each; films show the front."""
ELEVATION_DEG = 15.0
WHITE = 1.0


def motion_of(recipe: Recipe) -> MotionConfig:
    """Return the motion of a stage that moves."""
    assert recipe.motion is not None
    return recipe.motion


def times_of(recipe: Recipe) -> tuple[float, ...]:
    """Return the times of the frames of the recipe's clip."""
    return frame_times(motion_of(recipe).frames, motion_of(recipe).loop)


def write_moving(renderer: DynamicRenderer, recipe: Recipe, run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write an asset that moves in each of `formats` and return the files.

    The rest pose is written as ever. Its motion: json, html and glb of sketches and glb of meshes hold it; svg adds
    moving.svg; ply of splats adds a folder with one file a frame and moving.splatv; mp4 and gif add a clip, png a sheet
    of all frames.
    """
    from systems.assets import write_assets

    files: list[Path] = []
    for name in formats:
        own = _with_motion(name, renderer, recipe, run.export)
        files += write_assets(renderer.inner, recipe, run, (name,)) if name not in ("json", "html") else []
        files += [path for path in own if path not in files]
    return files


def sketch_with_motion(renderer: DynamicRenderer, recipe: Recipe) -> Sketch:
    """Return the living strokes of a moving sketch with the motion of these strokes."""
    from systems.drawings import sketch_of

    sketch, inner = sketch_of(renderer.inner, recipe), renderer.inner
    motion = recorded(renderer, recipe)
    alive = inner.alive.cpu().numpy() if isinstance(inner, SketchRenderer) else np.ones(len(sketch), bool)
    return replace(sketch, motion=motion.of(alive) if len(alive) != len(sketch) else motion)


def recorded(renderer: DynamicRenderer, recipe: Recipe) -> Motion:
    """Return the motion of the recipe's clip as plain numbers."""
    return renderer.recorded(times_of(recipe), motion_of(recipe).fps, motion_of(recipe).loop)


def _with_motion(name: str, renderer: DynamicRenderer, recipe: Recipe, folder: Path) -> list[Path]:
    """Write the files of a format that hold motion; [] if it has none."""
    inner, motion = renderer.inner, motion_of(recipe)
    if name in ("mp4", "gif"):
        from sds3d.export.moving.clip import write_clip

        return [write_clip(folder / f"clip.{name}", clip_of(renderer, recipe, SIDES_DEG[:1])[0], motion.fps)]
    if name == "png":
        from sds3d.export.moving.clip import write_clip_sheet

        return [write_clip_sheet(folder / "clip.png", clip_of(renderer, recipe, SIDES_DEG, 128))]
    if isinstance(inner, SketchRenderer):
        return _sketch_files(name, renderer, recipe, folder)
    if name == "ply" and isinstance(inner, GaussianRenderer):
        from sds3d.export.moving.splat_sequence import FACTS, write_splat_sequence
        from sds3d.export.moving.splatv import write_splatv

        frames, distance = _splats(renderer, recipe), sum(recipe.cameras.distance) / 2
        sequence = write_splat_sequence(folder / "splats", frames, motion.fps, motion.loop)
        return [sequence / FACTS, write_splatv(folder / "moving.splatv", frames, motion.loop, distance)]
    if name == "glb" and isinstance(inner, SurfaceRenderer):
        from sds3d.export.moving.gltf import write_moving_mesh

        return [write_moving_mesh(folder / "moving.glb", inner.to_mesh(0, 10**9), recorded(renderer, recipe))]
    return []


def _sketch_files(name: str, renderer: DynamicRenderer, recipe: Recipe, folder: Path) -> list[Path]:
    from systems.drawings import write_sketch

    sketch = sketch_with_motion(renderer, recipe)
    if name in ("json", "html"):
        return write_sketch(name, folder, sketch, recipe)
    if name == "glb":
        from sds3d.export.sketch.gltf import write_glb

        return [write_glb(folder / "moving.glb", sketch)]
    if name == "svg":
        from sds3d.export.sketch.svg import write_animated_svg

        return [write_animated_svg(folder / "moving.svg", sketch, _cameras(recipe, SIDES_DEG[:1], recipe.export.size))]
    return []


def _splats(renderer: DynamicRenderer, recipe: Recipe) -> list[Any]:
    from systems.assets import splats_of

    found = []
    for time in times_of(recipe):
        with renderer.posed(time):
            splats = splats_of(renderer.inner)
            copies: dict[str, Any] = {key: None if row is None else row.copy() for key, row in vars(splats).items()}
            found.append(replace(splats, **copies))
    return found


def _cameras(recipe: Recipe, sides: Sequence[float], size: int) -> Any:
    cameras = recipe.cameras
    distance = torch.full((len(sides),), sum(cameras.distance) / 2)
    height = torch.full((len(sides),), ELEVATION_DEG)
    return orbit(torch.tensor(sides), height, distance, cameras.fov_deg, size, size)


@torch.no_grad()
def clip_of(
    renderer: DynamicRenderer, recipe: Recipe, sides: Sequence[float], size: int | None = None, every: int = 1
) -> NDArray[np.uint8]:
    """Return clips [sides, F, H, W, 3] of the asset on white, each `every`-th frame, one drawn at a time."""
    device = next(renderer.parameters()).device
    cameras = _cameras(recipe, sides, size or recipe.export.size).to(device)
    white = torch.full((len(sides), 3), WHITE, device=device)
    shown = [to_bytes(renderer.show(cameras, white, (time,)).rgb.cpu()) for time in times_of(recipe)[::every]]
    return np.stack(shown, axis=1)


def some_frames(renderer: DynamicRenderer, recipe: Recipe, size: int, most: int = 8) -> NDArray[np.uint8]:
    """Return about `most` frames [frames, H, W, 3] of the clip from the front, for previews."""
    every = max(1, -(-motion_of(recipe).frames // most))
    return clip_of(renderer, recipe, SIDES_DEG[:1], size, every)[0]


@torch.no_grad()
def motion_metrics(renderer: DynamicRenderer, recipe: Recipe) -> dict[str, Any]:
    """Return how much the asset moves and keeps of itself (`sds3d.metrics.moving`), over the recipe's clip."""
    motion = motion_of(recipe)
    moved = renderer.at(times_of(recipe))
    dense = renderer.at(frame_times(DENSER * motion.frames, motion.loop)).points
    return motion_report(*(places.cpu().numpy().astype(np.float64) for places in (moved.points, moved.rest, dense)))
