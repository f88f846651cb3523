"""The mesh rasteriser's benchmark runs and its numbers are what they are called."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba")
FOLDER = str(Path(__file__).parents[3] / "benchmarks")


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, FOLDER)
    try:
        yield importlib.import_module("mesh_rasteriser")
    finally:
        sys.path.remove(FOLDER)
        sys.modules.pop("mesh_rasteriser", None)


def test_a_small_case_prints_every_contender(benchmark):
    row = benchmark.measure(16, repeats=1, subdivisions=1)
    assert row["faces"] == 80 and row["size"] == 16
    assert all(both >= forward >= 0 for forward, both in (row["rasterise_ms"], row["picture_ms"], row["reference_ms"]))
    shown = benchmark.table([row | {"pytorch3d_published_ms": [1400.0, None]}])
    assert all(name in shown for name in ("rasterise", "picture", "reference", "pytorch3d published", "1400.0ms"))
    assert 20 * 4**benchmark.SUBDIVISIONS == 20_480
