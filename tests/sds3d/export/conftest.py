"""Random splats and how near two of them are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sds3d.export.splats import Splats


def random_splats(count: int = 7, rest: int | None = None) -> Splats:
    """Return splats of about the size of an object, with unit quaternions and `rest` harmonics."""
    rng = np.random.default_rng(count)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    higher = None if rest is None else np.clip(0.4 * rng.normal(size=(count, rest, 3)), -0.9, 0.9)
    means, log_scales = rng.normal(size=(count, 3)), -3.0 + rng.normal(size=(count, 3))
    return Splats(means, quats, log_scales, rng.normal(size=count), rng.uniform(-3, 3, size=(count, 3)), higher)


@pytest.fixture
def make_splats() -> Callable[..., Splats]:
    return random_splats
