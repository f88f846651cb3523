"""Toybox objects: our outlines are those of the toybox's own z-buffer, sample for sample, and soft edges come nearer to
its supersampled picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.edges import weld
from renderers.meshes.rasterise import rasterise
from sds3d.cameras import orbit
from sds3d.toybox.objects import builders
from sds3d.toybox.raster import SUPERSAMPLE, render_view
from sds3d.toybox.shape import Shape

SIZE = 48


@pytest.mark.parametrize("noun", ["mug", "chair", "airplane"])
def test_outlines_agree(noun):
    shape = Shape(main=(0.8, 0.2, 0.2))
    builders()[noun](shape, np.random.default_rng(0))
    mesh = shape.mesh()
    angles = (torch.tensor([40.0]), torch.tensor([25.0]), torch.tensor([2.4]))
    cameras = orbit(*angles, 45.0, SIZE, SIZE)
    corners = torch.from_numpy(mesh.corners).reshape(-1, 3)
    rows, faces = weld(corners, torch.arange(len(corners)).view(-1, 3))
    clip = clip_from(cameras, corners[rows])
    theirs = torch.from_numpy(render_view(mesh, cameras.cam_to_world[0].numpy(), SIZE).alpha)

    samples = rasterise(clip, faces, SIZE * SUPERSAMPLE, SIZE * SUPERSAMPLE).mask[0].float()
    ours = torch.nn.functional.avg_pool2d(samples[None], SUPERSAMPLE)[0]
    assert 0.05 < theirs.mean() < 0.6
    assert (ours != theirs).float().mean() < 1e-3

    drawn = rasterise(clip, faces, SIZE, SIZE)
    hard = drawn.mask[..., None].float()
    soft = antialias(hard, drawn, clip, faces)
    fine = rasterise(clip, faces, SIZE * 8, SIZE * 8).mask.float()
    coverage = torch.nn.functional.avg_pool2d(fine, 8)[..., None]
    assert (soft - coverage).abs().mean() < 0.4 * (hard - coverage).abs().mean()
