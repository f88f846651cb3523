"""A small moving sketch."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sds3d.export.sketch.sketch import Motion, Sketch


def random_sketch(
    count: int = 5, segments: int = 1, frames: int = 0, has_weights: bool = False, is_loop: bool = True
) -> Sketch:
    """Return strokes of the size of an object; with frames they turn, grow, shift and bend."""
    rng = np.random.default_rng(count + 10 * segments)
    inner = 3 * segments + 1
    points = rng.uniform(-0.4, 0.4, (count, 1, 3)) + rng.uniform(-0.25, 0.25, (count, inner, 3))
    motion = None
    if frames:
        tau = np.arange(frames) / frames
        quats = Rotation.from_rotvec(np.outer(0.6 * np.sin(2 * np.pi * tau), [0.2, 0.1, 1.0])).as_quat()[
            :, [3, 0, 1, 2]
        ]
        shift = np.outer(np.sin(2 * np.pi * tau), [0.05, 0.1, 0.2])
        scale = 1.0 + 0.1 * np.sin(2 * np.pi * tau)[:, None]
        offsets = 0.1 * np.sin(2 * np.pi * tau)[:, None, None, None] * rng.normal(size=(1, count, inner, 3))
        motion = Motion(
            similarity=np.concatenate([scale, quats, shift], axis=1),
            centre=points.mean(axis=(0, 1)),
            offsets=offsets,
            fps=8.0,
            is_loop=is_loop,
        )
    return Sketch(
        points=points,
        half_widths=rng.uniform(0.008, 0.02, count),
        opacities=rng.uniform(0.6, 1.0, count),
        colours=rng.uniform(0.0, 0.6, (count, 3)),
        weights=rng.uniform(0.5, 2.0, (count, inner)) if has_weights else None,
        motion=motion,
        prompt="a <test> & more",
    )


@pytest.fixture
def make_sketch() -> Callable[..., Sketch]:
    return random_sketch
