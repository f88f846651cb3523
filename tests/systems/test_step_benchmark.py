"""benchmarks/step.py measures the real step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.usefixtures("use_exact_prior")
@pytest.mark.parametrize("method", ["mvdream-recon", "vsd"])
def test_all_parts_are_measured(
    method: str, make_recipe: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(__file__).parents[2] / "benchmarks" / "step.py"
    spec = importlib.util.spec_from_file_location("step_benchmark", file)
    assert spec is not None and spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = benchmark.measure(make_recipe("training.preview_every=0", f"guidance.method={method}"), 3)
    wall = {name: times["wall_ms"] for name, times in result["parts"].items()}
    assert list(wall) == [*benchmark.PARTS, "step"] and result["steps"] == 5
    assert all(wall[name] > 0 for name in benchmark.PARTS if name != "score network")
    assert (wall["score network"] > 0) == (method == "vsd")
    assert max(wall[name] for name in benchmark.PARTS) < wall["step"] < 3 * sum(wall[name] for name in benchmark.PARTS)
    benchmark.show(result)
    assert "optimiser + density" in capsys.readouterr().out
