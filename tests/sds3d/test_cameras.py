import math

import pytest
import torch

from sds3d.cameras import look_at_origin, orbit, sample_orbit, turntable
from sds3d.errors import ShapeError
from sds3d.priors.camera_condition import FEATURE_SIZES, encode_cameras


def project(cameras, point):
    inside = cameras.world_to_cam @ torch.tensor([*point, 1.0])
    pixel = torch.einsum("bij,bj->bi", cameras.intrinsics, inside[:, :3])
    return pixel[:, :2] / pixel[:, 2:], inside[:, 2]


def test_front_camera_sees_the_documented_frame():
    one = torch.ones(1)
    cameras = orbit(0 * one, 0 * one, 2.5 * one, 90.0, 64, 48)
    assert torch.allclose(cameras.cam_to_world[0, :3, 3], torch.tensor([2.5, 0, 0]), atol=1e-6)
    centre, depth = project(cameras, (0, 0, 0))
    assert torch.allclose(centre, torch.tensor([[32.0, 24.0]])) and depth.item() == pytest.approx(2.5)
    left, _ = project(cameras, (0, 0.5, 0))  # the object's left is on the viewer's right
    up, _ = project(cameras, (0, 0, 0.5))
    assert left[0, 0] > 32 and up[0, 1] < 24
    # fov 90 degrees: half the height is seen at distance d at height d.
    edge, _ = project(cameras, (0, 0, 2.5))
    assert edge[0, 1].item() == pytest.approx(0.0, abs=1e-4)


def test_azimuth_grows_towards_plus_y_and_elevation_up():
    cameras = orbit(torch.tensor([90.0, 0.0]), torch.tensor([0.0, 30.0]), torch.full((2,), 2.0), 45.0, 8, 8)
    assert torch.allclose(cameras.cam_to_world[0, :3, 3], torch.tensor([0.0, 2.0, 0.0]), atol=1e-6)
    assert cameras.cam_to_world[1, 2, 3].item() == pytest.approx(1.0, abs=1e-6)


def test_matrices_are_rigid_inverses_and_survive_the_poles():
    matrix = look_at_origin(torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, -2.0], [1.0, -2.0, 0.5]]))
    rotation = matrix[:, :3, :3]
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(3, 3, 3), atol=1e-6)
    assert torch.allclose(torch.linalg.det(rotation), torch.ones(3), atol=1e-5)
    cameras = turntable(5, 32)
    identity = cameras.world_to_cam @ cameras.cam_to_world
    assert torch.allclose(identity, torch.eye(4).expand(5, 4, 4), atol=1e-5)


def test_sampled_azimuths_are_stratified_uniform_and_seeded():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample_orbit(4, 8, generator, (-10, 45), (2.3, 2.7)).azimuth_deg for _ in range(1500)])
    assert drawn.min() >= 0 and drawn.max() < 360
    share = torch.histc(drawn, 12, 0, 360) / drawn.numel()
    assert torch.allclose(share, torch.full((12,), 1 / 12), atol=0.012)
    sectors = ((drawn - drawn[:, :1]).remainder(360) / 90).round().remainder(4).sort(dim=1).values
    assert (sectors[:, 0] == 0).all()  # each step looks from all four sides
    assert sectors.float().mean().item() == pytest.approx(1.5, abs=0.15)
    first, again = (sample_orbit(4, 8, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first.cam_to_world, again.cam_to_world)
    assert len(first[:2]) == 2 and first[torch.tensor([3])].azimuth_deg == first.azimuth_deg[3]


def test_cameras_in_groups_look_from_evenly_spaced_sides_of_one_object():
    generator = torch.Generator().manual_seed(1)
    steps = [sample_orbit(8, 8, generator, (-10, 45), (2.3, 2.7), group=4) for _ in range(400)]
    azimuth = torch.stack([cameras.azimuth_deg for cameras in steps]).view(-1, 2, 4)
    turns = (azimuth - azimuth[:, :, :1]).remainder(360)
    assert torch.allclose(turns, torch.tensor([0.0, 90.0, 180.0, 270.0]).expand_as(turns), atol=1e-3)
    between = (azimuth[:, 1, 0] - azimuth[:, 0, 0]).remainder(90)  # stratified: the groups halve the sector
    assert between.mean().item() == pytest.approx(45, abs=4) and between.std() > 10
    share = torch.histc(azimuth, 12, 0, 360) / azimuth.numel()
    assert torch.allclose(share, torch.full((12,), 1 / 12), atol=0.02)
    for name in ("elevation_deg", "distance"):
        rows = torch.stack([getattr(cameras, name) for cameras in steps]).view(-1, 2, 4)
        assert (rows == rows[:, :, :1]).all() and (rows[:, 0] != rows[:, 1]).all()
    plain, grouped = (sample_orbit(4, 8, torch.Generator().manual_seed(3), **more) for more in ({}, {"group": 1}))
    assert torch.equal(plain.cam_to_world, grouped.cam_to_world)
    with pytest.raises(ShapeError, match=r"batch of cameras has shape \[6\], but a multiple of group = 4"):
        sample_orbit(6, 8, generator, group=4)


def test_camera_features_are_mvdreams_matrix_and_harmonics():
    cameras = orbit(torch.tensor([60.0]), torch.tensor([20.0]), torch.tensor([2.5]), 45.0, 8, 8)
    before = cameras.cam_to_world.clone()
    plain, fourier = (encode_cameras(cameras.cam_to_world, kind) for kind in ("extrinsics", "fourier"))
    assert torch.equal(before, cameras.cam_to_world)
    matrix = plain.view(4, 4)
    assert matrix[:3, 3].norm().item() == pytest.approx(1.0, abs=1e-5)
    assert torch.allclose(matrix[:3, 2], matrix[:3, 3], atol=1e-5)  # OpenGL: z points backward, away from the origin
    assert matrix[3].tolist() == [0, 0, 0, 1]
    assert fourier.shape == (1, FEATURE_SIZES["fourier"]) and torch.equal(fourier[:, :16], plain)
    assert fourier[0, 17].item() == pytest.approx(math.sqrt(2) * math.cos(math.radians(120)), abs=1e-4)
    assert fourier[0, 24].item() == pytest.approx(math.sqrt(2) * math.sin(math.radians(60)), abs=1e-4)
    with pytest.raises(KeyError):
        encode_cameras(cameras.cam_to_world, "angles")
