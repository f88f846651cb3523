"""M27: what a light- and geometry-aware ControlNet is shown: 22 channels, their order, ranges and signs."""

from __future__ import annotations

import pytest
import torch

from renderers.conditions import WHITE_MATERIALS, condition_maps, depth_map, normal_map
from renderers.pbr_mesh import PbrMeshRenderer, material_texture
from renderers.surface_conversion import sphere_mesh
from sds3d.cameras import turntable
from sds3d.config.pbr import PbrMeshConfig

NAMES = ("depth", "normal", "light")


@pytest.fixture(scope="module")
def ball() -> PbrMeshRenderer:
    config = PbrMeshConfig(
        lights=("sunset",),
        turn_lights=False,
        light_resolution=8,
        occlusion=False,
        texture={"kind": "grid", "resolution": 2},
    )
    mesh = sphere_mesh(0.7, 16)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    return PbrMeshRenderer(vertices, faces, material_texture(config, torch.Generator().manual_seed(0)), config)


@pytest.fixture(scope="module")
def maps(ball) -> torch.Tensor:
    cameras = turntable(2, 32, 0.0, 2.5, 45.0)
    lights = ball.lights() * 2
    return condition_maps(ball.gbuffer(cameras), cameras, lambda seen: ball.shaded(seen, lights), NAMES)


def test_there_are_22_channels_in_order_and_in_range(ball, maps):
    assert maps.shape == (2, 22, 32, 32) and float(maps.min()) >= 0 and float(maps.max()) <= 1
    assert len(WHITE_MATERIALS) == 6 and not maps.requires_grad
    cameras = turntable(2, 32, 0.0, 2.5, 45.0)
    seen = ball.gbuffer(cameras)
    assert torch.equal(maps[:, :1], depth_map(seen, cameras).permute(0, 3, 1, 2))
    assert torch.equal(maps[:, 1:4], normal_map(seen, cameras).permute(0, 3, 1, 2))
    shuffled = condition_maps(seen, cameras, lambda s: ball.shaded(s, ball.lights() * 2), ("normal", "depth"))
    assert torch.equal(shuffled[:, :3], maps[:, 1:4]) and torch.equal(shuffled[:, 3:], maps[:, :1])


def test_depth_is_inverse_and_runs_from_0_3_to_1_in_the_mask(ball, maps):
    cameras = turntable(2, 32, 0.0, 2.5, 45.0)
    seen = ball.gbuffer(cameras)
    mask = seen.alpha[..., 0] > 0.5
    for view in range(2):
        depth = maps[view, 0]
        assert float(depth[~mask[view]].abs().max()) == 0.0
        inside = depth[mask[view]]
        assert float(inside.min()) == pytest.approx(0.3, abs=1e-5) and float(inside.max()) == pytest.approx(
            1.0, abs=1e-5
        )
        assert float(depth[15:17, 15:17].min()) > 0.99  # the middle of a ball is its nearest point
    # Inverse depth, not depth: a point half-way in depth lies below the middle of the range.
    distance = torch.linalg.vector_norm(seen.position - cameras.cam_to_world[:, None, None, :3, 3], dim=-1)
    ahead = -(seen.view * cameras.cam_to_world[:, None, None, :3, 2]).sum(dim=-1)
    z = (distance * ahead)[mask]
    stretched = (1 / z - 1 / z.max()) / (1 / z.min() - 1 / z.max())
    assert torch.allclose(maps[:, 0][mask], 0.3 + 0.7 * stretched, atol=1e-3)


def test_normals_have_x_turned_over(maps):
    """The middle faces the viewer (0.5, 0.5, 1); the right edge would have x near 1 and has it near 0; the top has y near 1."""
    normal = maps[0, 1:4]
    assert torch.allclose(normal[:, 15:17, 15:17].mean(dim=(1, 2)), torch.tensor([0.5, 0.5, 1.0]), atol=0.03)
    row, column = normal[:, 16, :], normal[:, :, 16]
    covered_x, covered_y = maps[0, 0, 16] > 0, maps[0, 0, :, 16] > 0
    right, left = covered_x.nonzero()[-1, 0], covered_x.nonzero()[0, 0]
    top, bottom = covered_y.nonzero()[0, 0], covered_y.nonzero()[-1, 0]
    assert row[0, right] < 0.2 and row[0, left] > 0.8
    assert column[1, top] > 0.8 and column[1, bottom] < 0.2
    assert float(normal[:, 0, 0].abs().max()) == 0.0


def test_light_pictures_are_white_materials_in_the_light_of_the_view(maps):
    light = maps[:, 4:].unflatten(1, (6, 3))
    mask = maps[:, 0] > 0
    assert float(light.permute(0, 3, 4, 1, 2)[~mask].max()) < 1e-3 or float(light[..., 0, 0].max()) == 0.0
    # A metal has no diffuse part, so smooth and rough metals differ more than smooth and rough dielectrics do.
    dielectric = (light[:, 0] - light[:, 2]).abs().mean()
    metal = (light[:, 3] - light[:, 5]).abs().mean()
    assert metal > 3 * dielectric
    # "sunset" has its sun on +Y's side of the front: on the right of the front camera, on the left of the one behind.
    right, left = (light[:, 2, :, :, half].mean(dim=(1, 2, 3)) for half in (slice(16, 32), slice(0, 16)))
    lean = right - left
    assert float(lean[0]) > 0.01 and float(lean[1]) < -0.01
