"""Time the first call in a fresh process: python benchmarks/rasteriser_first.py [--repeats N].

Printed are medians over processes, in seconds of wall and of CPU time, of what a program waits for when it draws and takes
a gradient for the first time: the import of numba and of the kernels with what numba then loads, the call, and a later
call for comparison. Torch was imported before. The first process compiles the kernels if that has not been done since they
changed, and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))


def measure() -> dict[str, tuple[float, float]]:
    """Return wall and CPU seconds of every step in this process."""
    import torch
    from rasteriser_scene import Scene

    from renderers.gaussians import plans
    from renderers.gaussians.rasterise import rasterise

    torch.set_num_threads(1)
    scene = Scene.make(1_000, 64, 1)
    times: dict[str, tuple[float, float]] = {}

    def call() -> None:
        image, alpha, _ = rasterise(*scene.leaves, scene.viewmats, scene.Ks, 64, 64, backend="cpu")
        (image.sum() + alpha.sum()).backward()  # (gradients given to autograd make torch import sympy: half a second)

    steps: dict[str, Callable[[], object]] = {
        "kernels": plans.kernels,
        "first call": call,
        "later call": call,
    }
    for name, step in steps.items():
        wall, spent = time.perf_counter(), time.process_time()
        step()
        times[name] = time.perf_counter() - wall, time.process_time() - spent
    times["first call in all"] = tuple(sum(times[name][i] for name in list(steps)[:2]) for i in (0, 1))  # type: ignore[assignment]
    return times


def main() -> None:
    """Start processes one after the other and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="processes that count (default 7)")
    parser.add_argument("--one", action="store_true", help="measure in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(json.dumps(measure()) + "\n")
        return
    command = [sys.executable, __file__, "--one"]
    runs = [json.loads(subprocess.check_output(command)) for _ in range(arguments.repeats + 1)][1:]
    for name in runs[0]:
        wall, spent = (statistics.median(run[name][i] for run in runs) for i in (0, 1))
        sys.stdout.write(f"{name:>18} {wall:8.3f} s wall {spent:8.3f} s CPU\n")


if __name__ == "__main__":
    main()
