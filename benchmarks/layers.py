"""Training speed of the bundled prior's layers on this CPU: plain against strip convolutions, autocast against bfloat16 copies.

    python benchmarks/layers.py [--json FILE] [--repeats 5]

Everything runs in one process, interleaved; medians of wall time over `--repeats`, and ratios.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def medians(jobs: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return {name: median seconds}; the jobs take turns, after one turn to warm up."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for turn in range(repeats + 1):
        for name, job in jobs.items():
            began = time.perf_counter()
            job()
            if turn:
                times[name].append(time.perf_counter() - began)
    return {name: median(values) for name, values in times.items()}


def convolution_jobs(size: int, channels: int) -> dict[str, Callable[[], Any]]:
    """Return forward + backward of one 3x3 convolution on 64 images, plain and with 2, 4 and 8 strips."""
    import torch

    from sds3d.toybox import fast_layers

    plain = torch.nn.Conv2d(channels, channels, 3, padding=1).bfloat16()
    strip = fast_layers.use_fast_layers(torch.nn.Sequential(copy.deepcopy(plain)))
    images = torch.randn(64, channels, size, size, dtype=torch.bfloat16, requires_grad=True)

    def run(network: torch.nn.Module, strips: int) -> None:
        fast_layers.STRIPS = strips
        network(images).sum().backward()

    jobs: dict[str, Callable[[], Any]] = {"plain": lambda: run(plain, 4)}
    return jobs | {f"{n} strips": (lambda n=n: run(strip, n)) for n in (2, 4, 8)}


def step_jobs(batch: int) -> dict[str, Callable[[], Any]]:
    """Return forward + backward of the whole prior on `batch` images in three ways."""
    import torch

    from sds3d.toybox.diffusion import make_networks, velocity_error
    from sds3d.toybox.fast_layers import use_fast_layers
    from sds3d.toybox.loop import _own_core

    networks = make_networks(752, 0)
    fast = copy.deepcopy(networks)
    use_fast_layers(fast["unet"])
    twins = [copy.deepcopy(fast).to(torch.bfloat16) for _ in range(2)]
    pool = ThreadPoolExecutor(2, initializer=_own_core)

    def loss(network: torch.nn.ModuleDict, size: int) -> None:
        config = network["unet"].config
        shape = (size, config["in_channels"], config["sample_size"], config["sample_size"])
        samples = (
            torch.randn(shape),
            torch.randint(0, 750, (size, 24)),
            torch.randn(size, config["projection_class_embeddings_input_dim"]),
        )
        velocity_error(network, samples, torch.randint(0, 1000, (size,)), torch.randn(shape)).mean().backward()

    def autocast(network: torch.nn.ModuleDict) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss(network, batch)

    return {
        "autocast": lambda: autocast(networks),
        "autocast, fast layers": lambda: autocast(fast),
        "two bfloat16 copies, fast layers": lambda: list(pool.map(lambda twin: loss(twin, batch // 2), twins)),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    import torch

    torch.set_flush_denormal(True)
    tables = {f"3x3, {c} channels, {s}x{s}": convolution_jobs(s, c) for s, c in ((4, 192), (8, 128), (16, 64))}
    tables["whole prior, 48 images"] = step_jobs(48)
    from rich.console import Console
    from rich.table import Table

    figures = {title: medians(jobs, options.repeats) for title, jobs in tables.items()}
    table = Table("what", "way", "ms", "times as fast as the first")
    for title, times in figures.items():
        first = next(iter(times.values()))
        for name, seconds in times.items():
            table.add_row(title, name, f"{seconds * 1e3:.1f}", f"{first / seconds:.2f}")
    Console(width=110).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
