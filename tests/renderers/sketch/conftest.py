"""Random strokes, cameras and a way to draw them in double precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from renderers.sketch.coverage import Drawing, draw
from renderers.sketch.projection import project
from sds3d import bezier
from sds3d.cameras import Cameras, turntable


def random_points(count: int, seed: int = 0, spread: float = 0.5, segments: int = 1) -> Tensor:
    """Return [count, 3 * segments + 1, 3] float64 control points of curved strokes."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.rand(count, 1, 3, generator=generator, dtype=torch.float64) - 0.5
    return centre + spread * (torch.rand(count, 3 * segments + 1, 3, generator=generator, dtype=torch.float64) - 0.5)


def in_double(cameras: Cameras) -> Cameras:
    return replace(cameras, cam_to_world=cameras.cam_to_world.double(), intrinsics=cameras.intrinsics.double())


def picture(
    points: Tensor,
    cameras: Cameras,
    *,
    half_width: float | Tensor = 0.012,
    opacity: float | Tensor = 0.9,
    colour: Tensor | None = None,
    log_weights: Tensor | None = None,
    samples: int = 16,
    **options: object,
) -> Drawing:
    count = len(points)
    widths = torch.as_tensor(half_width, dtype=points.dtype).expand(count)
    ink = torch.as_tensor(opacity, dtype=points.dtype).expand(count)
    tint = torch.zeros(count, 3, dtype=points.dtype) if colour is None else colour
    lines = project(bezier.sample(points, samples, log_weights), widths, cameras)
    return draw(lines, ink, tint, cameras.height, cameras.width, **options)  # type: ignore[arg-type]


@pytest.fixture
def make_points() -> Callable[..., Tensor]:
    return random_points


@pytest.fixture
def make_picture() -> Callable[..., Drawing]:
    return picture


@pytest.fixture
def make_cameras() -> Callable[..., Cameras]:
    """Return a function that makes `views` cameras around the object in double precision."""

    def make(views: int = 1, size: int = 32, **where: float) -> Cameras:
        return in_double(turntable(views, size, **where))

    return make
