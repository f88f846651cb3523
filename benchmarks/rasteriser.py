"""Time the CPU rasteriser beside others: python benchmarks/rasteriser.py [--cases A,B] [--repeats N] [--json FILE].

A bumpy ball of random Gaussians, RGB, forward and forward + backward to all parameters. All contenders run in one
process, one thread each, taking turns; the table shows medians of CPU time, so that a busy machine disturbs little, and
how many times longer than `cpu` the others take. Then: where the time goes, how near the kernels come to what the
machine's vector units could do, whether the time follows the covered pixels, and (--threads) two threads against one.

Contenders: `cpu`; in this repository `dense` (the torch reference, small scenes only) and `scalar` (per-pixel numba loops
over tile lists, compositing only, compared with the same stage of `cpu`); from PyPI `splax`, if it is installed
(pip install splax; it needs Python 3.11 and JAX, and Warp's experimental CPU blocks, which are switched on here).
OpenSplat and torch-splatting are not on PyPI, gsplat and taichi-splatting have no CPU path: those are left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
os.environ.setdefault("SCIPY_ARRAY_API", "1")  # splax asks for it, before anything imports scipy
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import rasteriser_contenders as contenders
import rasteriser_limit as limit
import torch
from rasteriser_scene import Scene, covered_pixels

from renderers.gaussians import workers

CASES = {
    "1k-64": (1_000, 64, 1),
    "4k-64-4v": (4_000, 64, 4),
    "10k-64": (10_000, 64, 1),
    "10k-128": (10_000, 128, 1),
    "10k-128-4v": (10_000, 128, 4),
    "10k-256": (10_000, 256, 1),
    "10k-512": (10_000, 512, 1),
    "50k-128": (50_000, 128, 1),
    "50k-512": (50_000, 512, 1),
}
SLOW_S = 1.0
"""A contender that takes this long is measured three times only."""
STAGES_S, PACE_SLACK = 5.0, 1.1
"""Seconds for which the calls of a case are taken apart at least, and by how much its pace may lag in a turn that counts."""


def compare(runners: dict[str, Callable[[], tuple[float, float]]], repeats: int) -> dict[str, tuple[float, float]]:
    """Return the median seconds of forward and of forward + backward of each runner; they take turns.

    The first round compiles and warms up, and does not count.
    """
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for turn in range(repeats + 1):
        for name, run in runners.items():
            if samples[name] and samples[name][0][1] > SLOW_S and len(samples[name]) >= 3:
                continue
            sample = run()
            if turn:
                samples[name].append(sample)
    return {name: _medians(values) for name, values in samples.items()}


def _medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    forward, both = zip(*values, strict=True)
    return statistics.median(forward), statistics.median(both)


def stages(scene: Scene, repeats: int) -> dict[str, float]:
    """Return the median seconds of each kernel (launching it included) of a forward and backward call, of the calls as a
    whole, of what torch does in them itself (`contenders.run_empty`), and of `pace`.

    The calls as a whole run without the clocks round the kernels, which would count as the call's own time. A shared
    machine is at times slower by half, for a tenth of a second or for minutes, in a plain loop of Python too:
    turns in which that loop was slower than usual do not count. ("pace" tells whether all of them were slow.)
    """
    turns: list[dict[str, float]] = []
    until = time.perf_counter() + STAGES_S
    while len(turns) <= repeats or time.perf_counter() < until:
        before = pace()
        spent = _time_kernels(scene)
        forward, both = contenders.run_ours(scene)
        _, empty = contenders.run_empty(scene)
        turns.append({**spent, "forward": forward, "both": both, "torch alone": empty, "pace": max(before, pace())})
    turns = turns[1:]  # the first compiles
    usual = statistics.quantiles([turn["pace"] for turn in turns], n=20)[0]
    kept = [turn for turn in turns if turn["pace"] <= PACE_SLACK * usual]
    return {name: statistics.median(turn[name] for turn in kept) for name in kept[0]}


def pace() -> float:
    """Return the CPU seconds of a fixed loop of Python."""
    start, total = time.thread_time(), 0
    for number in range(5000):
        total += number
    return time.thread_time() - start


def _time_kernels(scene: Scene) -> dict[str, float]:
    """Return the CPU seconds of each kernel in a forward and backward call."""
    spent: dict[str, float] = {}
    original = workers.run

    def timed(threads: int, kernel: Callable[..., Any], job: Any, **options: Any) -> list[Any]:
        module = kernel.py_func.__module__.rpartition(".")[2]  # type: ignore[attr-defined]
        name = f"{module}.{kernel.py_func.__name__}"  # type: ignore[attr-defined]
        start = time.thread_time()
        results = original(threads, kernel, job, **options)
        spent[name] = spent.get(name, 0.0) + time.thread_time() - start
        return results

    workers.run = timed
    try:
        contenders.run_ours(scene)
    finally:
        workers.run = original
    return spent


def measure(name: str, repeats: int, peers: dict[str, Any]) -> dict[str, Any]:
    """Return everything about one case: medians in milliseconds, ratios, stages, shares of the limit."""
    count, size, views = CASES[name]
    scene = Scene.make(count, size, views)
    runners = {"cpu": lambda: contenders.run_ours(scene)}
    if count * size * size * views <= contenders.DENSE_LIMIT:
        runners["dense"] = lambda: contenders.run_dense(scene)
    for peer, prepare in peers.items():
        runners[peer] = prepare(scene)
    times = compare(runners, repeats)
    parts = stages(scene, repeats)
    own = (parts["raster.draw"], parts["raster.draw"] + parts["raster.sweep"])
    times["scalar"] = compare({"scalar": contenders.prepare_scalar(scene)}, min(repeats, 5))["scalar"]
    row: dict[str, Any] = {"case": name, "gaussians": count, "size": size, "views": views}
    row["ms"] = {who: [1e3 * seconds for seconds in pair] for who, pair in times.items()}
    row["ratio"] = {
        who: [a / b for a, b in zip(pair, own if who == "scalar" else times["cpu"], strict=True)]
        for who, pair in times.items()
        if who != "cpu"
    }
    row["stages_ms"] = {stage: 1e3 * seconds for stage, seconds in parts.items()}
    kernels = sum(seconds for stage, seconds in parts.items() if "." in stage)
    row["call_overhead_ms"] = 1e3 * (parts["both"] - kernels)
    row["covered_pixels"] = covered_pixels(scene)
    row["blocks"] = limit.count_blocks(scene)
    row["share_of_limit"] = limit.shares(row["blocks"], own[0], own[1] - own[0])
    return row


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Fit milliseconds of forward + backward = a + b * covered pixels + c * Gaussians in views, by least squares of
    relative errors; return the coefficients and R^2 (also of the covered pixels alone)."""
    pairs = torch.tensor([row["covered_pixels"] for row in rows], dtype=torch.float64)
    splats = torch.tensor([float(row["gaussians"] * row["views"]) for row in rows], dtype=torch.float64)
    took = torch.tensor([row["ms"]["cpu"][1] for row in rows], dtype=torch.float64)

    def solve(columns: list[torch.Tensor]) -> tuple[torch.Tensor, float]:
        matrix = torch.stack(columns, dim=1)
        found = torch.linalg.lstsq(matrix / took[:, None], torch.ones(len(rows), 1).double()).solution[:, 0]
        rest = took - matrix @ found
        return found, float(1 - rest.square().sum() / (took - took.mean()).square().sum())

    (_, slope), r_squared_pixels = solve([torch.ones_like(took), pairs])
    (base, per_pair, per_splat), r_squared = solve([torch.ones_like(took), pairs, splats])
    return {
        "ms_fixed": float(base),
        "ns_per_covered_pixel": 1e6 * float(per_pair),
        "ns_per_gaussian": 1e6 * float(per_splat),
        "r_squared": r_squared,
        "ns_per_covered_pixel_alone": 1e6 * float(slope),
        "r_squared_covered_pixels_alone": r_squared_pixels,
    }


def threads(repeats: int) -> dict[str, float]:
    """Return wall milliseconds of forward + backward of 50k Gaussians at 512 px by one and by two threads, taking turns.

    Medians of `repeats`; the ratio of the best ones is beside them ("best_speedup"): a single thread has moments at a
    higher clock that two threads never have, so it is lower. "machine" is what two threads reach that have nothing in
    common: far below 2, the second core had other things to do and the figures say little.
    """
    scene, walls = Scene.make(50_000, 512, 1), {1: [], 2: []}  # type: ignore[var-annotated]
    for turn in range(repeats + 1):
        for count in (1, 2):
            torch.set_num_threads(count)
            start = time.perf_counter()
            contenders.run_ours(scene)
            if turn:
                walls[count].append(time.perf_counter() - start)
    torch.set_num_threads(1)
    one, two = (1e3 * statistics.median(walls[count]) for count in (1, 2))
    best = min(walls[1]) / min(walls[2])
    machine = limit.two_threads(repeats)
    return {"one_ms": one, "two_ms": two, "speedup": one / two, "best_speedup": best, "machine": machine}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text."""
    lines = [f"{'case':>12} {'contender':>10} {'forward':>10} {'fwd+bwd':>10}   {'times the CPU time of cpu':>26}"]
    for row in rows:
        for who, (forward, both) in row["ms"].items():
            ratio = row["ratio"].get(who)
            shown = "" if ratio is None else f"{ratio[0]:12.1f} {ratio[1]:12.1f}"
            stage = "  (compositing only)" if who == "scalar" else ""
            lines.append(f"{row['case']:>12} {who:>10} {forward:8.2f}ms {both:8.2f}ms   {shown:>26}{stage}")
    lines.append("")
    names = list(rows[0]["stages_ms"])
    lines.append(f"{'ms':>12} " + " ".join(f"{name:>19}" for name in (*names, "call overhead")))
    for row in rows:
        values = [*row["stages_ms"].values(), row["call_overhead_ms"]]
        lines.append(f"{row['case']:>12} " + " ".join(f"{value:19.3f}" for value in values))
    lines.append("")
    lines.append(
        f"{'case':>12} {'covered pixels':>16} {'blocks':>10} {'share of the estimated limit, forward, backward':>50}"
    )
    for row in rows:
        forward, backward = row["share_of_limit"]
        shares = f"{100 * forward:.0f} % {100 * backward:.0f} %"
        lines.append(f"{row['case']:>12} {row['covered_pixels']:16.0f} {row['blocks']:10d} {shares:>50}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {', '.join(CASES)}")
    parser.add_argument("--repeats", type=int, default=15, help="samples a contender (default 15)")
    parser.add_argument("--threads", action="store_true", help="also compare two threads with one, by wall time")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    peers: dict[str, Any] = {}
    if importlib.util.find_spec("splax") is None:
        sys.stdout.write("splax is not installed (pip install splax): left out.\n")
    else:
        peers["splax"] = contenders.prepare_splax
    rows = [measure(name, arguments.repeats, peers) for name in arguments.cases.split(",")]
    sys.stdout.write(table(rows) + "\n")
    result: dict[str, Any] = {"torch": torch.__version__, "rows": rows, "vector_gops": limit.vector_rate() / 1e9}
    if len(rows) > 3:
        result["fit"] = fit(rows)
        sys.stdout.write("\nfit: " + ", ".join(f"{key} {value:.4g}" for key, value in result["fit"].items()) + "\n")
    if arguments.threads:
        result["threads"] = threads(arguments.repeats)
        sys.stdout.write("threads: " + ", ".join(f"{k} {v:.4g}" for k, v in result["threads"].items()) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
