"""Small meshes and views for the tests of mesh rasterisation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from renderers.meshes.clip import clip_from
from sds3d.cameras import turntable


def _sphere(subdivisions: int = 1, radius: float = 0.8, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return torch.tensor(mesh.vertices, dtype=dtype), torch.tensor(mesh.faces, dtype=torch.int64)


def _soup(seed: int, faces: int = 60, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Return clip coordinates and faces of random triangles, a third of them crossing the camera's plane."""
    generator = torch.Generator().manual_seed(seed)
    clip = torch.randn(batch, 3 * faces, 4, generator=generator)
    clip[..., 3] = clip[..., 3] + 0.9
    clip[..., 2] = clip[..., 2] * 0.5
    return clip, torch.arange(3 * faces).view(faces, 3)


def _flat(points: list[list[float]], size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return clip coordinates [1, V, 4] (w = 1, z = 0) of points (x, y) given in pixels of a size x size picture."""
    pixels = torch.tensor(points, dtype=dtype)
    plane = 2.0 * pixels / size - 1.0
    return torch.cat([plane, torch.zeros_like(plane[:, :1]), torch.ones_like(plane[:, :1])], dim=1)[None]


@pytest.fixture
def sphere() -> Callable[..., tuple[Tensor, Tensor]]:
    return _sphere


@pytest.fixture
def soup() -> Callable[..., tuple[Tensor, Tensor]]:
    return _soup


@pytest.fixture
def flat() -> Callable[..., Tensor]:
    return _flat


@pytest.fixture
def sphere_clip() -> Callable[..., tuple[Tensor, Tensor]]:
    def make(
        size: int, views: int = 2, subdivisions: int = 2, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        vertices, faces = _sphere(subdivisions, dtype=dtype)
        return clip_from(turntable(views, size), vertices), faces

    return make
