"""Clip space agrees with the cameras' pixels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from renderers.meshes.clip import FAR, NEAR, clip_from, clip_matrix, pixel_centres
from sds3d.cameras import orbit
from sds3d.errors import ConfigError, ShapeError


def camera(width=30, height=20):
    cameras = orbit(torch.tensor([20.0, 130]), torch.tensor([10.0, -30]), torch.tensor([2.5, 3]), 40.0, width, height)
    skewed = cameras.intrinsics.clone()
    skewed[:, 0, 0] *= 1.2
    skewed[:, 0, 1], skewed[:, 0, 2], skewed[:, 1, 2] = 0.7, 13.0, 11.5
    return replace(cameras, intrinsics=skewed)


def test_divided_coordinates_are_pixels():
    cameras = camera()
    points = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    clip = clip_from(cameras, points)
    local = torch.einsum("bij,nj->bni", cameras.world_to_cam[:, :3, :3], points) + cameras.world_to_cam[:, None, :3, 3]
    pixels = torch.einsum("bij,bnj->bni", cameras.intrinsics, local)
    pixels = pixels[..., :2] / pixels[..., 2:]
    shown = (clip[..., :2] / clip[..., 3:] + 1) / 2 * torch.tensor([30.0, 20])
    torch.testing.assert_close(shown, pixels, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(clip[..., 3], local[..., 2], rtol=1e-5, atol=1e-5)


def test_near_and_far_planes_are_minus_one_and_one():
    cameras = camera()
    forward = cameras.cam_to_world[:, :3, 2]
    for distance, expected in ((NEAR, -1.0), (FAR, 1.0)):
        point = (cameras.cam_to_world[:, :3, 3] + forward * distance)[:, None].double()
        clip = clip_from(replace(cameras, cam_to_world=cameras.cam_to_world.double()), point)
        torch.testing.assert_close(
            clip[..., 2] / clip[..., 3], torch.full_like(clip[..., 2], expected), rtol=0, atol=1e-3
        )


def test_pixel_centres():
    x, y = pixel_centres(2, 4, torch.zeros(()))
    assert x.tolist() == [-0.75, -0.25, 0.25, 0.75] and y.tolist() == [-0.5, 0.5]


def test_per_view_vertices_and_autocast():
    cameras = camera()
    points = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    clip = clip_from(cameras, points)
    torch.testing.assert_close(clip[1], clip_from(cameras, points[1])[1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(clip_from(cameras, points), clip)


def test_errors_name_the_argument():
    with pytest.raises(ShapeError, match=r"vertices has shape \[3, 5, 3\], but \[V, 3\] or \[2, V, 3\] is needed"):
        clip_from(camera(), torch.zeros(3, 5, 3))
    with pytest.raises(ConfigError, match=r"near=1 and far=0\.5, but 0 < near < far is needed"):
        clip_matrix(camera(), 1.0, 0.5)
