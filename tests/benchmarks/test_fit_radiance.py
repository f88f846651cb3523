"""The yardsticks of the benchmark must themselves be right."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from renderers.volume.rays import camera_rays
from sds3d.meshing.mesh import Mesh


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parents[2] / "benchmarks" / "fit_radiance.py"
    spec = importlib.util.spec_from_file_location("fit_radiance", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_radiance"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_thinned_cameras_see_a_subset_of_the_pixels(benchmark):
    cameras = benchmark.views(3, 8)
    all_rays = camera_rays(cameras, 1.0).directions.view(3, 8, 8, 3)
    some = camera_rays(benchmark.thinned(cameras, 2, 1, 0), 1.0).directions.view(3, 4, 4, 3)
    assert torch.allclose(some, all_rays[:, 1::2, 0::2], atol=1e-6)


def test_chamfer_of_an_object_with_itself_and_with_a_shifted_one(benchmark):
    toy = benchmark.toy("apple")
    corners = toy.corners.reshape(-1, 3)
    faces = np.arange(len(corners)).reshape(-1, 3)
    size = (corners.max(axis=0) - corners.min(axis=0)).max()
    same = benchmark.chamfer(Mesh(corners, faces, np.zeros_like(corners)), toy)
    shifted = benchmark.chamfer(Mesh(corners + np.array([0.1 * size, 0, 0]), faces, np.zeros_like(corners)), toy)
    assert same < 1.0 and 2.0 < shifted < 10.0  # sampling noise alone; between nothing and the shift


def test_psnr_is_what_it_says(benchmark):
    pictures = torch.full((2, 4, 4, 3), 0.5)
    assert benchmark.psnr(pictures + 0.1, pictures) == pytest.approx(20.0, abs=1e-4)
