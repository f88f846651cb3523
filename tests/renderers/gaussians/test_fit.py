"""A whole optimisation: wrong signs, factors or row moves anywhere in the chain keep it from reaching the target."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark():
    file = Path(__file__).parents[3] / "benchmarks" / "fit.py"
    spec = importlib.util.spec_from_file_location("fit_benchmark", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fit_benchmark"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("mode", ["off", "relocate", "mcmc"])
def test_a_small_fit_reaches_its_target(benchmark, mode):
    points = benchmark.fit(200, 32, 3, 120, mode=mode, report_at=(0,))
    assert [point.step for point in points] == [0, 120] and points[0].psnr < 17
    assert points[1].psnr > 25.5 and points[1].psnr_between > 20


def test_psnr_is_what_it_says(benchmark):
    pictures = torch.full((2, 4, 4, 3), 0.5)
    assert benchmark.psnr(pictures + 0.1, pictures) == pytest.approx(20.0, abs=1e-4)
    assert benchmark.psnr(pictures + 9.0, torch.ones_like(pictures)) > 100  # limited to [0, 1] first


@pytest.mark.slow
def test_five_thousand_gaussians_reach_thirty_decibels(benchmark):
    """8 views of 128 pixels on the CPU; docs/splats.md shows a longer run of the same function."""
    points = benchmark.fit(5000, 128, 8, 150)
    assert points[-1].psnr >= 30.0
