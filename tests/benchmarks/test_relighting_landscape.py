"""The landscape of roughness and metalness: its base colours are the best ones, and its minima are those of the data."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "relighting_landscape.py"
    spec = importlib.util.spec_from_file_location("relighting_landscape", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["relighting_landscape"] = module
    spec.loader.exec_module(module)
    return module


def test_no_other_base_colour_fits_better(benchmark: ModuleType) -> None:
    """The weighted median against a fine grid of grey levels, channel by channel."""
    normal, view = benchmark.points(40, 3, kinds=1)
    light, true = benchmark.light_of("lamps", 4), benchmark.TRUE[3]
    seen_from = normal[0], view[0], light
    truth = benchmark.seen(true, *seen_from)
    for rough, metal in ((0.5, 0.5), (0.8, 0.1)):
        error, base = benchmark.landscape(truth, *seen_from, torch.tensor([rough]), torch.tensor([metal]))
        level = torch.linspace(0.0, 1.0, 1001)
        rest = torch.tensor([rough, metal]).expand(1001, 2)
        tried = benchmark.seen(torch.cat([level[:, None].expand(-1, 3), rest], dim=1), *seen_from)
        by_channel = (tried - truth).abs().mean(dim=1)  # [1001, 3]: channels do not mix
        assert float(error) <= float(by_channel.min(dim=0).values.mean()) + 1e-6
        torch.testing.assert_close(level[by_channel.argmin(dim=0)], base[0, 0], atol=2e-3, rtol=0)


def test_minima_are_lower_than_their_neighbours(benchmark: ModuleType) -> None:
    x, y = torch.meshgrid(torch.linspace(-2, 2, 41), torch.linspace(-1, 1, 21), indexing="ij")
    error = (x.square() - 1.0).square() + y.square() + 0.1 * x
    assert benchmark.minima(error).tolist() == [[10, 10], [30, 10]]
    assert benchmark.minima(torch.ones(4, 4)).tolist() == []


@pytest.mark.parametrize(("name", "expected"), [("sky", 2), ("lamps", 1)])
def test_a_smooth_sky_has_a_wrong_minimum_and_lamps_have_none(benchmark: ModuleType, name: str, expected: int) -> None:
    """Glossy plastic: under "sky" a rough half-metal is a minimum of its own, whatever finds it (M18)."""
    normal, view = benchmark.points(benchmark.POINTS, 0)
    seen_from = normal[3], view[3], benchmark.light_of(name)
    truth = benchmark.seen(benchmark.TRUE[3], *seen_from)
    roughness, metalness = torch.linspace(0.06, 0.98, 24), torch.linspace(0.0, 1.0, 21)
    error, _ = benchmark.landscape(truth, *seen_from, roughness, metalness)
    places = benchmark.minima(error)
    assert len(places) == expected
    values = error[places[:, 0], places[:, 1]]
    best = places[values.argmin()]
    assert abs(float(roughness[best[0]]) - 0.3) < 0.03 and float(metalness[best[1]]) == 0.0
    if expected == 2:
        wrong = places[values.argmax()]
        assert float(roughness[wrong[0]]) > 0.75 and float(metalness[wrong[1]]) > 0.6
        assert float(values.max()) > 0.02
