"""The rasteriser's benchmark: its baseline draws the same picture, and its numbers are what they are called."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("numba")
FOLDER = str(Path(__file__).parents[3] / "benchmarks")


@pytest.fixture(scope="module")
def benchmark():
    """Import the benchmark as a program would find it."""
    sys.path.insert(0, FOLDER)
    names = ("scalar_rasteriser", "rasteriser_scene", "rasteriser_contenders", "rasteriser_limit", "rasteriser")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(FOLDER)
        for name in names:
            sys.modules.pop(name, None)


def test_the_scalar_baseline_is_a_second_opinion(benchmark, make_scene):
    """Pictures and slot sums of per-pixel loops agree with the vector kernels."""
    import numpy as np

    from renderers.gaussians.projection import project
    from renderers.gaussians.rasterise import rasterise

    scalar = benchmark["scalar_rasteriser"]
    scene = make_scene(count=40, cameras=2, width=41, height=23).to(torch.float32)
    tensors = (*scene.gaussians[:4], scene.viewmats, scene.Ks)
    view = project(*(t.detach() for t in tensors), 41, 23)
    features = scene.colors.detach().expand(2, -1, -1).contiguous().numpy()
    lists = scalar.tile_lists(view, 41, 23)
    arrays = [t.contiguous().numpy() for t in (view.means2d, view.conics, view.opacities)]
    out, left = np.zeros((2, 23, 41, 3), np.float32), np.ones((2, 23, 41), np.float32)
    scalar.forward(0, 1, *arrays, features, *lists, 41, 23, out, left)
    image, alpha, _ = rasterise(*scene.call(), backend="cpu")
    assert (image - torch.from_numpy(out)).abs().max() < 1e-4
    assert (alpha[..., 0] - 1 + torch.from_numpy(abs(left))).abs().max() < 1e-4
    g_out, g_alpha = np.ones_like(out), np.ones_like(left)
    slots = np.zeros((len(lists.entries), scalar.MOMENTS + 3), np.float32)
    remaining, left = out.sum(axis=-1) + 1 - abs(left), np.ones_like(left)
    scalar.backward(0, 1, *arrays, features, *lists, 41, 23, g_out, g_alpha, remaining, left, slots)
    (image.sum() + alpha.sum()).backward()
    expected = torch.zeros(2, 40, 3)
    cameras = np.repeat(np.arange(2), np.diff(lists.offsets).reshape(2, -1).sum(axis=1))
    expected.index_put_(
        (torch.from_numpy(cameras), torch.from_numpy(lists.entries).long()),
        torch.from_numpy(slots[:, scalar.MOMENTS :]),
        accumulate=True,
    )
    assert torch.allclose(scene.colors.grad, expected.sum(dim=0), rtol=1e-3, atol=1e-4)


def test_covered_pixels_are_counted(benchmark):
    """Ellipse areas against pixels in which one Gaussian after the other is visible."""
    from renderers.gaussians.rasterise import rasterise

    scene = benchmark["rasteriser_scene"].Scene.make(30, 48, 1)
    means, quats, scales, opacities, colours = (leaf.detach() for leaf in scene.leaves)
    seen = 0
    for i in range(30):
        one = slice(i, i + 1)
        tensors = (means[one], quats[one], scales[one], opacities[one], colours[one], scene.viewmats, scene.Ks)
        seen += int((rasterise(*tensors, 48, 48, backend="cpu")[1] > 0).sum())
    assert benchmark["rasteriser_scene"].covered_pixels(scene) == pytest.approx(seen, rel=0.15)
    blocks = benchmark["rasteriser_limit"].count_blocks(scene)
    assert seen / 16 < blocks < 4 * seen / 16


def test_a_row_and_the_fit(benchmark, monkeypatch):
    module = benchmark["rasteriser"]
    monkeypatch.setattr(module, "CASES", {"tiny": (50, 16, 2)})
    row = module.measure("tiny", 2, {})
    assert set(row["ms"]) == {"cpu", "dense", "scalar"} and row["ratio"]["dense"][1] > 0
    assert {"raster.draw", "raster.sweep", "tiles.sort", "tiles.fill", "tiles.distribute", "reduce.reduce"} <= set(
        row["stages_ms"]
    )
    assert "tiny" in module.table([row])
    rows = []
    for pixels, count in ((1e5, 1000), (4e5, 10_000), (9e5, 4_000), (2e6, 50_000)):
        took = 0.5 + 2e-6 * pixels + 1e-4 * count
        rows.append({"covered_pixels": pixels, "gaussians": count, "views": 1, "ms": {"cpu": [0.0, took]}})
    found = module.fit(rows)
    assert found["r_squared"] == pytest.approx(1.0)
    expected = {"ms_fixed": 0.5, "ns_per_covered_pixel": 2.0, "ns_per_gaussian": 100.0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6)


def test_runners_take_turns_and_slow_ones_stop_early(benchmark):
    calls = []

    def runner(name, seconds):
        def run():
            calls.append(name)
            return seconds / 2, seconds

        return run

    medians = benchmark["rasteriser"].compare({"fast": runner("fast", 0.1), "slow": runner("slow", 2.0)}, 6)
    assert medians == {"fast": (0.05, 0.1), "slow": (1.0, 2.0)}
    assert calls[:4] == ["fast", "slow", "fast", "slow"] and calls.count("slow") == 4 and calls.count("fast") == 7
