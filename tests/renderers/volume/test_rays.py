"""Rays against the projection they invert, boxes and spheres against points on them."""

from __future__ import annotations

import torch

from renderers.volume.rays import box_interval, camera_rays, sphere_interval
from sds3d.cameras import sample_orbit


def test_points_on_a_ray_project_to_its_pixel_centre():
    cameras = sample_orbit(3, 8, torch.Generator().manual_seed(0))
    rays = camera_rays(cameras, 1.0)
    assert len(rays) == 3 * 64 and torch.allclose(rays.directions.norm(dim=1), torch.ones(192))
    points = rays.origins + 2.3 * rays.directions
    points = points.view(3, 64, 3)
    local = torch.einsum("bij,bnj->bni", cameras.world_to_cam[:, :3, :3], points) + cameras.world_to_cam[:, None, :3, 3]
    assert torch.allclose(local[..., 2].reshape(-1), 2.3 * rays.z_scale, atol=1e-5)
    pixel = torch.einsum("bij,bnj->bni", cameras.intrinsics, local)
    pixel = pixel[..., :2] / pixel[..., 2:]
    rows, columns = torch.meshgrid(torch.arange(8) + 0.5, torch.arange(8) + 0.5, indexing="ij")
    wanted = torch.stack([columns, rows], dim=-1).view(1, 64, 2).expand(3, -1, -1)
    assert torch.allclose(pixel, wanted, atol=1e-4)


def test_box_and_sphere_are_entered_and_left_on_their_surface():
    draws = torch.Generator().manual_seed(1)
    origins = 3 * torch.nn.functional.normalize(torch.randn(500, 3, generator=draws), dim=1)
    aims = torch.rand(500, 3, generator=draws) * 3 - 1.5
    directions = torch.nn.functional.normalize(aims - origins, dim=1)
    for interval, size in ((box_interval, lambda p: p.abs().amax(dim=1)), (sphere_interval, lambda p: p.norm(dim=1))):
        near, far = interval(origins, directions, 0.8)
        hit = far > near
        assert 50 < hit.sum() < 450
        for distance in (near, far):
            surface = size(origins + distance[:, None] * directions)[hit]
            assert torch.allclose(surface, torch.full_like(surface, 0.8), atol=1e-4)
        middle = size(origins + (0.5 * (near + far))[:, None] * directions)
        assert (middle[hit] <= 0.8 + 1e-5).all() and (size(aims) <= 0.8)[~hit].sum() == 0


def test_inside_behind_and_along_an_axis():
    origins = torch.tensor([[0.0, 0, 0], [3.0, 0, 0], [-3.0, 0.5, 0.5], [-3.0, 2.0, 0]])
    directions = torch.tensor([[1.0, 0, 0]] * 4)
    near, far = box_interval(origins, directions, 1.0)
    assert torch.allclose(near, torch.tensor([0.0, 0, 2, 0])[[0, 1, 2]].new_tensor([0.0, 0.0, 2.0, near[3]]))
    assert far[0] == 1 and far[1] == near[1] and far[2] == 4 and far[3] == near[3]
    near, far = sphere_interval(origins, directions, 1.0)
    assert near[0] == 0 and far[0] == 1 and far[1] == near[1] and far[3] == near[3]
