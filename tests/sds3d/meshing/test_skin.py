"""Outlines through cameras, and the choice of the skin, against analytic silhouettes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sds3d.cameras import Cameras, turntable
from sds3d.errors import ShapeError
from sds3d.meshing import carve, skin
from sds3d.meshing.extinction import Array, Grid, make_grid

CENTRE = np.array([0.1, 0.3, 0.2])


def soft_ball(radius: float, width: float, strength: float = 30.0) -> tuple[Array, Grid]:
    """Extinction of a ball around CENTRE whose rim fades over `width`."""
    grid = make_grid(np.full(3, -1.0), np.full(3, 1.0), 40)
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    distance = np.linalg.norm(grid.to_world(nodes) - CENTRE, axis=-1)
    return (strength * np.clip((radius - distance) / width + 0.5, 0.0, 1.0)).astype(np.float32), grid


def disc(cameras: Cameras, radius: float) -> np.ndarray:
    """Exact silhouettes [B, H, W] of the ball: rays whose distance from CENTRE is below `radius`."""
    rows, columns = np.meshgrid(np.arange(cameras.height) + 0.5, np.arange(cameras.width) + 0.5, indexing="ij")
    result = []
    for pose, intrinsics in zip(cameras.cam_to_world.numpy(), cameras.intrinsics.numpy(), strict=True):
        u = (columns - intrinsics[0, 2]) / intrinsics[0, 0]
        v = (rows - intrinsics[1, 2]) / intrinsics[1, 1]
        ray = u[..., None] * pose[:3, 0] + v[..., None] * pose[:3, 1] + pose[:3, 2]
        ray = ray / np.linalg.norm(ray, axis=-1, keepdims=True)
        towards = CENTRE - pose[:3, 3]
        result.append(np.linalg.norm(np.cross(ray, towards), axis=-1) < radius)
    return np.stack(result).astype(np.float32)


def test_outlines_match_analytic_silhouettes_of_a_ball_off_centre() -> None:
    extinction, grid = soft_ball(0.4, 1e-3)
    cameras = turntable(4, 40)
    views = skin._camera_views(skin.Silhouettes(disc(cameras, 0.4), cameras), grid)
    field = np.where(extinction > 0, np.float32(2.0), np.float32(0.0))
    found = [skin.outline(field, view) for view in views]
    assert skin.overlap(found, [view.alpha > 0.5 for view in views]) > 0.88
    mirrored = [np.ascontiguousarray(f.reshape(40, 40)[:, ::-1]).ravel() for f in found]
    assert skin.overlap(mirrored, [view.alpha > 0.5 for view in views]) < 0.6  # so a flipped axis would be noticed


def test_wide_silhouettes_lay_the_surface_further_out_than_narrow_ones() -> None:
    extinction, grid = soft_ball(0.5, 0.8, strength=3.0)
    cameras = turntable(3, 40)
    chosen, sizes = [], []
    for radius in (0.75, 0.45):
        chosen.append(
            skin.choose_skin(extinction, grid, carve.OPAQUE, skin.Silhouettes(disc(cameras, radius), cameras))
        )
        sizes.append((carve.hidden(extinction, grid.cell, chosen[-1]) >= 1.0).sum())
    assert chosen[0] < chosen[1] and sizes[0] > sizes[1]


def test_silhouettes_may_be_tensors_with_a_channel_and_without_give_the_volumes_own() -> None:
    extinction, grid = soft_ball(0.4, 0.2)
    cameras = turntable(2, 20)
    alpha = disc(cameras, 0.4)
    plain = skin.choose_skin(extinction, grid, carve.OPAQUE, skin.Silhouettes(alpha, cameras))
    tensor = torch.from_numpy(alpha)[..., None]
    assert skin.choose_skin(extinction, grid, carve.OPAQUE, skin.Silhouettes(tensor, cameras)) == plain
    assert skin.choose_skin(extinction, grid, carve.OPAQUE) > 0.0


def test_silhouettes_of_another_size_than_the_cameras_are_refused() -> None:
    extinction, grid = soft_ball(0.4, 0.2)
    with pytest.raises(ShapeError, match=r"Silhouettes.alpha has shape \[2, 9, 20\], but \[2, 20, 20\]"):
        skin.choose_skin(extinction, grid, 0.5, skin.Silhouettes(np.zeros((2, 9, 20)), turntable(2, 20)))


def test_overlap_is_intersection_over_union() -> None:
    a, b = np.array([True, True, False, False]), np.array([True, False, True, False])
    assert skin.overlap([a], [b]) == pytest.approx(1 / 3)
    assert skin.overlap([a & False], [b & False]) == 1.0
