"""A toybox object as a mesh, and a smooth colour of space to bake on it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Mesh
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build


@pytest.fixture(scope="session")
def mug() -> Mesh:
    return mesh_from_toy(build(Description(noun="mug", color="red"), np.random.default_rng(0)))


@pytest.fixture(scope="session")
def box() -> Mesh:
    """A unit cube of 8 vertices and 12 faces that look outwards, as trimesh makes it."""
    import trimesh

    made = trimesh.creation.box()
    return Mesh(made.vertices, made.faces, np.full((8, 3), 0.5))


def _rainbow(points: NDArray[np.float32]) -> NDArray[np.float64]:
    """sRGB [N, 3]; no slope is steeper than 0.4 * 5 = 2 a world unit."""
    return 0.5 + 0.4 * np.sin(5.0 * np.asarray(points, np.float64) + [0.0, 1.0, 2.0])


@pytest.fixture
def rainbow():  # type: ignore[no-untyped-def]
    return _rainbow
