"""Scenes of moving objects and the losses of methods that follow a video: B5, B7, B9."""

import pytest
import torch

from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from renderers.motion import similarity as sim
from renderers.motion.base import Motion
from renderers.motion.bases import Basis
from renderers.motion.fields import Direct
from renderers.motion.flow import image_places, render_flow
from renderers.motion.image_terms import balanced
from sds3d.cameras import orbit
from sds3d.errors import ShapeError


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cameras_of(count, size=32, step_deg=12.0):
    full = torch.ones(count)
    return orbit(torch.arange(count) * step_deg, 10.0 * full, 4.0 * full, 45.0, size, size)


def test_world_is_camera_after_object_after_deformation_and_no_other_order():
    """B5: two objects, gauged deformation, similarity tracks, a moving camera; recomposed error below 1e-6 pixels."""
    frames = 5
    cameras = cameras_of(frames)
    matrix, intrinsics = cameras.world_to_cam.double(), cameras.intrinsics.double()

    def tracks(points):
        there = points @ matrix[:, :3, :3].transpose(1, 2) + matrix[:, None, :3, 3]
        image = there @ intrinsics.transpose(1, 2)
        return image[..., :2] / image[..., 2:]

    for number in (1, 2):
        rest = 0.4 * random(20, 3, seed=number)
        vector = 0.5 * random(frames, 3, seed=10 * number)
        whole = sim.Similarity(
            torch.exp(0.1 * random(frames, seed=20 * number)),
            sim.rotation_from_vector(vector),
            sim.quaternion_from_vector(vector),
            0.3 * random(frames, 3, seed=30 * number),
        )
        bend = sim.gauge_project(0.05 * random(frames, 20, 3, seed=40 * number), rest, True)
        path = sim.move(rest, bend, whole, rest.mean(dim=0))
        found = sim.factorise(path, rest, True)
        again = sim.move(rest, found.offsets, found.similarity, found.centre)
        assert (tracks(again) - tracks(path)).norm(dim=-1).max() < 1e-6
        swapped = sim.move(rest, torch.zeros_like(bend), found.similarity, found.centre) + found.offsets
        assert (tracks(swapped) - tracks(path)).norm(dim=-1).mean() > 0.05


def blob(position, opacity=8.0):
    return GaussianRenderer(
        Gaussians(
            means=torch.tensor([position]),
            quats=torch.tensor([[1.0, 0, 0, 0]]),
            log_scales=torch.full((1, 3), -1.2),
            opacity_logits=torch.tensor([opacity]),
            sh0=torch.zeros(1, 3),
        ),
        GaussianSettings(backend="reference"),
    )


def test_rendered_flow_is_the_displacement_inside_and_0_outside():
    """B7: and its gradient reaches only positions."""
    inner, basis = blob([0.0, 0.2, 0.0]), Basis("polynomial", 2, 1)
    motion = Motion(sim.SimilarityTrack(basis), Direct(1, basis))
    with torch.no_grad():
        motion.similarity.translation[0] = torch.tensor([0.0, -0.3, 0.2])
    moved = motion(inner.means, torch.tensor([0.0, 1.0]))
    cameras = cameras_of(1, size=64)
    flow = render_flow(inner, moved, 0, 1, cameras)
    places = image_places(moved.points.flatten(0, 1), cameras)[0]
    expected = places[1] - places[0]
    column, row = (int(v) for v in places[0].detach())
    assert torch.allclose(flow[0, row, column], expected, atol=0.02 * float(expected.detach().norm()))
    assert (
        not flow[0, 0].any() and not flow[0, -1].any() and expected[0] < -1
    )  # towards -y is to the left, seen from +x
    flow.square().sum().backward()
    assert motion.similarity.translation.grad.abs().sum() > 0 and inner.means.grad.abs().sum() > 0
    for name in ("quats", "log_scales", "opacity_logits", "sh0"):
        assert getattr(inner, name).grad is None, name
    with pytest.raises(ShapeError, match="more than 2 frames"):
        render_flow(inner, moved, 0, 2, cameras)


def test_balanced_errors_do_not_depend_on_the_size_of_the_mask():
    """B9."""
    mask = torch.zeros(1, 8, 8, 1)
    mask[:, :4] = 1.0
    picture, target = random(1, 8, 8, 3).float(), random(1, 8, 8, 3, seed=1).float()
    expected = (picture - target).square().mean()
    assert float(balanced(picture, target, mask)) == pytest.approx(float(expected), rel=1e-5)
    small, large = torch.zeros(1, 8, 8, 1), torch.ones(1, 8, 8, 1)
    small[:, 0, 0], large[:, 0, 0] = 1.0, 0.0
    even = target + 0.3
    assert float(balanced(even, target, small)) == pytest.approx(0.09, rel=1e-4)
    assert float(balanced(even, target, large)) == pytest.approx(0.09, rel=1e-4)
    picture.requires_grad_()
    empty = balanced(picture, target, torch.zeros(1, 8, 8, 1))
    empty.backward()
    assert float(empty.detach()) == pytest.approx(0.5 * float(expected), rel=1e-5)
    assert torch.isfinite(picture.grad).all()
