import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from sds3d.cameras import orbit, turntable
from sds3d.export.splats import SH_C0, Splats
from systems.viewing.drawing import CURVE_SIZE, browser_splats, camera_of, curve, pull


def test_a_browsers_camera_is_ours() -> None:
    ours = orbit(torch.tensor([70.0]), torch.tensor([25.0]), torch.tensor([2.5]), 45.0, 60, 40)
    matrix = ours.cam_to_world[0].double().numpy()
    wxyz = Rotation.from_matrix(matrix[:3, :3]).as_quat(scalar_first=True)
    found = camera_of(3.0 * wxyz, matrix[:3, 3], math.radians(45), 1.5, 40)
    assert (found.width, found.height) == (60, 40)
    assert torch.allclose(found.cam_to_world, ours.cam_to_world, atol=1e-5)
    assert torch.allclose(found.intrinsics, ours.intrinsics, atol=1e-4)
    for name in ("azimuth_deg", "elevation_deg", "distance"):
        assert torch.allclose(getattr(found, name), getattr(ours, name), atol=1e-3), name


def test_browser_splats_have_the_covariances_of_the_renderer() -> None:
    rng = np.random.default_rng(0)
    splats = Splats(
        rng.normal(size=(5, 3)),
        rng.normal(size=(5, 4)),
        rng.normal(size=(5, 3)),
        rng.normal(size=5),
        rng.normal(size=(5, 3)),
    )
    centres, covariances, rgbs, opacities = browser_splats(splats)
    assert np.array_equal(centres, splats.means)
    for k in range(5):
        rotation = Rotation.from_quat(splats.quats[k], scalar_first=True).as_matrix()
        expected = rotation @ np.diag(np.exp(2.0 * splats.log_scales[k])) @ rotation.T
        assert covariances[k] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert rgbs == pytest.approx(np.clip(0.5 + SH_C0 * splats.sh0, 0, 1), abs=1e-6)
    assert opacities.shape == (5, 1) and opacities[0, 0] == pytest.approx(
        1 / (1 + math.exp(-splats.opacity_logits[0])), rel=1e-5
    )


def test_the_pull_is_minus_the_gradient_at_full_contrast() -> None:
    rgb = torch.full((2, 4, 4, 3), 0.5)
    gradient = torch.zeros_like(rgb)
    gradient[0, 0, 0, 0], gradient[1, 3, 3, 2] = 0.02, -0.01
    shown = pull(rgb, gradient)
    assert shown.shape == (8, 8, 3)  # two pictures beside each other, their pulls below
    assert shown[4, 0, 0] == 0 and abs(int(shown[7, 7, 2]) - 191) <= 1 and abs(int(shown[5, 5, 1]) - 128) <= 1
    assert pull(rgb, None).shape == (4, 8, 3)
    assert pull(torch.randn(1, 4, 4, 4), None).max() == 255  # latents are stretched
    assert pull(torch.rand(1, 4, 4, 1), None).shape == (4, 4, 3)


def test_a_curve_is_drawn_where_the_numbers_are() -> None:
    empty = curve([], "loss")
    assert empty.shape == (CURVE_SIZE[1], CURVE_SIZE[0], 3)
    falling = curve([(0, 1.0), (50, 0.5), (100, 0.0), (150, math.nan)], "loss")
    blue = np.argwhere((falling[..., 2] > 200) & (falling[..., 0] < 80))
    assert blue[:, 1].min() < 20 and blue[:, 1].max() > CURVE_SIZE[0] - 20
    left, right = blue[blue[:, 1] < 100][:, 0].mean(), blue[blue[:, 1] > CURVE_SIZE[0] - 100][:, 0].mean()
    assert left < right  # rows grow downwards, so the line falls
    assert curve([(3, 1.0)], "one").shape == empty.shape


def test_turntables_and_browsers_agree_on_the_front() -> None:
    front = turntable(1, 8).cam_to_world[0]
    assert front[:3, 3] == pytest.approx([2.349, 0.0, 0.855], abs=1e-3)
