"""Gradients alone move an outline to its target."""

from __future__ import annotations

import torch

from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.edges import neighbours
from renderers.meshes.rasterise import rasterise
from sds3d.cameras import turntable


def test_a_sphere_moves_grows_and_stretches_to_a_target_silhouette(sphere):
    vertices, faces = sphere(2, radius=0.5)
    cameras, beyond = turntable(3, 32), neighbours(faces)
    target_size, target_place = torch.tensor([1.2, 0.9, 1.5]), torch.tensor([0.1, -0.15, 0.12])

    def silhouette(size, place):
        clip = clip_from(cameras, vertices * size + place)
        drawn = rasterise(clip, faces, 32, 32)
        return antialias(drawn.mask[..., None].float(), drawn, clip, faces, beyond)

    with torch.no_grad():
        target = silhouette(target_size, target_place)
    size, place = torch.ones(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.Adam([size, place], lr=0.03)
    for _ in range(60):
        optimiser.zero_grad()
        loss = (silhouette(size, place) - target).square().sum()
        loss.backward()
        optimiser.step()
    assert (size - target_size).abs().max() < 0.02
    assert (place - target_place).abs().max() < 0.01
