"""Derivatives of weights and depth, in double precision against finite differences."""

from __future__ import annotations

import torch

from renderers.meshes.clip import clip_from
from renderers.meshes.reference import visible_faces
from renderers.meshes.surface import pixel_derivatives, surface
from sds3d.cameras import turntable


def test_gradients_of_weights_and_depth(sphere):
    vertices, faces = sphere(0, dtype=torch.float64)
    clip = clip_from(turntable(2, 7, elevation_deg=33.0), vertices).requires_grad_()
    face = visible_faces(clip, faces, 7, 7)
    assert (face >= 0).sum() > 20
    assert torch.autograd.gradcheck(lambda clip: surface(clip, faces, face), (clip,), eps=1e-6, atol=1e-5)


def test_gradients_of_a_face_that_crosses_the_camera_plane():
    clip = torch.tensor([[[-1.0, -1, 0.1, 1], [1.5, -0.7, 0.2, 1.2], [0.3, 1, -0.3, -0.5]]], dtype=torch.float64)
    faces = torch.tensor([[0, 1, 2]])
    face = visible_faces(clip, faces, 5, 5)
    assert (face >= 0).sum() > 5
    assert torch.autograd.gradcheck(lambda clip: surface(clip, faces, face), (clip.requires_grad_(),))


def test_single_precision_does_not_lose_small_far_faces():
    # A face of 1/50 pixel at distance 1000: weights by large cross products would be noise.
    offset = torch.tensor([[0.0, 0, 0, 0], [4e-4, 0, 0, 0], [0, 4e-4, 0, 0]], dtype=torch.float64) / 16 * 1000
    clip = (torch.tensor([0.5, 0.25, 0.9, 1.0], dtype=torch.float64) * 1000 + offset - offset.mean(0))[None]
    faces, face = torch.tensor([[0, 1, 2]]), torch.zeros(1, 8, 8, dtype=torch.int64)
    clip[..., :2] += 1000 * (torch.tensor([2 * 5 + 1, 2 * 4 + 1]) / 8 - 1 - torch.tensor([0.5, 0.25]))
    single = clip.float()
    got, _ = surface(single, faces, face)
    exact, _ = surface(single.double(), faces, face)
    torch.testing.assert_close(got[0, 4, 5].double(), exact[0, 4, 5], rtol=0, atol=2e-3)


def test_pixel_derivatives_are_differences_between_pixels(sphere):
    vertices, faces = sphere(0, dtype=torch.float64)
    clip = clip_from(turntable(1, 64), vertices)
    face = visible_faces(clip, faces, 64, 48)
    change = pixel_derivatives(clip, faces, face)
    for axis, (along, size) in enumerate(((2, 48), (1, 64))):
        weights = []
        for step in (-1e-3, 1e-3):
            moved = clip.clone()
            moved[..., axis] -= 2 * step / size * moved[..., 3]  # moving the picture back samples it further on
            weights.append(surface(moved, faces, face)[0])
        torch.testing.assert_close(change[..., axis], (weights[1] - weights[0]) / 2e-3, rtol=1e-4, atol=1e-6)
        assert change[..., axis].abs().max() > 1e-3 and along in (1, 2)
    assert (change[face < 0] == 0).all()
    torch.testing.assert_close(change.sum(-2), torch.zeros(*face.shape, 2, dtype=torch.float64))
