"""A1, A2: curves and their pictures."""

from __future__ import annotations

import pytest
import torch

from renderers.sketch.projection import project
from sds3d import bezier

T = torch.linspace(0.0, 1.0, 33, dtype=torch.float64)


@pytest.mark.parametrize("has_weights", [False, True])
def test_the_rational_curve_is_the_picture_of_the_curve(make_points, make_cameras, has_weights):
    camera = make_cameras(1, 256)
    points = make_points(50, spread=2.0)
    log_weights = 0.5 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = log_weights.exp() if has_weights else torch.ones_like(log_weights)
    world_to_cam, intrinsics = camera.world_to_cam[0], camera.intrinsics[0]
    controls = bezier.homogeneous(points, world_to_cam, intrinsics)
    is_front = (controls[..., 2] > 0.1).all(dim=1)
    assert is_front.sum() > 30
    places = bezier.sample(points, 32, log_weights if has_weights else None)
    lines = project(places, torch.full((50,), 0.01, dtype=torch.float64), camera)
    value, _, depth = bezier.rational(controls, weights, T)
    assert (value - lines.xy[0])[is_front].abs().max() < 1e-9
    assert (depth - lines.depth[0])[is_front].abs().max() < 1e-9
    flat = controls[..., :2] / controls[..., 2:]
    shortcut = bezier.bernstein(T) @ flat  # an ordinary cubic through projected control points
    assert (shortcut - lines.xy[0])[is_front].norm(dim=-1).max() > 1.0


def test_the_slope_of_the_picture_is_its_derivative(make_points, make_cameras):
    camera = make_cameras(1, 256)
    controls = bezier.homogeneous(make_points(5), camera.world_to_cam[0], camera.intrinsics[0])
    weights = torch.tensor([1.0, 2.0, 0.5, 1.0], dtype=torch.float64).expand(5, 4)
    _, slope, _ = bezier.rational(controls, weights, T[1:-1])
    above = bezier.rational(controls, weights, T[1:-1] + 1e-6)[0]
    below = bezier.rational(controls, weights, T[1:-1] - 1e-6)[0]
    assert torch.allclose(slope, (above - below) / 2e-6, atol=1e-4)
    first = 3.0 * weights[:, 1, None] * controls[:, 1, 2:] / (weights[:, 0, None] * controls[:, 0, 2:])
    flat = controls[..., :2] / controls[..., 2:]
    assert torch.allclose(bezier.rational(controls, weights, T[:1])[1][:, 0], first * (flat[:, 1] - flat[:, 0]))


def test_without_perspective_the_shortcut_is_exact(make_points):
    points = make_points(20, spread=2.0)
    controls = torch.cat([100.0 * points[..., :2] + 128.0, torch.ones(20, 4, 1, dtype=torch.float64)], dim=-1)
    value, _, depth = bezier.rational(controls, torch.ones(20, 4, dtype=torch.float64), T)
    assert (value - bezier.bernstein(T) @ controls[..., :2]).abs().max() < 1e-9
    assert (depth - 1.0).abs().max() < 1e-12


def halved(controls):
    """De Casteljau's construction of the first half of cubics [..., 4, C]."""
    a, b, c, d = controls.unbind(dim=-2)
    ab, bc, cd = (a + b) / 2, (b + c) / 2, (c + d) / 2
    abc, bcd = (ab + bc) / 2, (bc + cd) / 2
    return torch.stack([a, ab, abc, (abc + bcd) / 2], dim=-2)


def test_projecting_then_cutting_is_cutting_then_projecting(make_points, make_cameras):
    camera = make_cameras(1, 256)
    points, ones = make_points(10), torch.ones(10, 4, dtype=torch.float64)
    matrices = camera.world_to_cam[0], camera.intrinsics[0]
    cut_first = bezier.rational(bezier.homogeneous(halved(points), *matrices), ones, T)[0]
    cut_after = bezier.rational(halved(bezier.homogeneous(points, *matrices)), ones, T)[0]
    whole = bezier.rational(bezier.homogeneous(points, *matrices), ones, T / 2)[0]
    assert (cut_first - cut_after).abs().max() < 1e-9
    assert (cut_first - whole).abs().max() < 1e-9


def test_samples_join_the_segments(make_points):
    points = make_points(3, segments=2)
    places = bezier.sample(points, 8)
    assert places.shape == (3, 17, 3)
    assert torch.allclose(places[:, [0, 8, 16]], points[:, [0, 3, 6]])
    assert torch.allclose(places[:, 8:], bezier.sample(points[:, 3:], 8))


def test_radii_shrink_with_the_distance_and_stay_in_range(make_cameras):
    camera = make_cameras(1, 256, distance=2.0, elevation_deg=0.0)
    places = torch.tensor([[[0.0, 0, 0], [1.0, 0, 0], [1.999, 0, 0], [3.0, 0, 0]]], dtype=torch.float64)
    lines = project(places, torch.tensor([0.005], dtype=torch.float64), camera)
    focal = float(camera.intrinsics[0, 0, 0])
    assert torch.allclose(lines.radius[0, 0, :2], torch.tensor([focal * 0.0025, focal * 0.005]).double())
    assert float(lines.radius[0, 0, 2]) == 4.0
    assert lines.is_drawn[0, 0].tolist() == [True, False, False]  # the third place is too near, the last behind
