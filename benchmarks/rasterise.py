"""Time the reference and the CPU rasteriser side by side: python benchmarks/rasterise.py [--json FILE].

Both run in one process, one thread each, interleaved, forward and forward + backward to all parameters (projection
included). Medians of CPU time, so that a busy machine disturbs little; wall time is printed beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from renderers.gaussians.rasterise import rasterise
from sds3d.cameras import orbit

CASES = ((1_000, 64, 1), (4_000, 64, 4), (10_000, 128, 1))
REFERENCE_LIMIT = 20_000_000
"""Pixel-Gaussian pairs above which the dense reference is left out (it would take minutes and gigabytes)."""


def make_object(count: int, views: int, size: int, seed: int = 0) -> tuple[list[Tensor], Tensor, Tensor]:
    """Return parameters that require gradients (means, quats, scales, opacities, colours), viewmats and Ks."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    directions = torch.nn.functional.normalize(normal(count, 3), dim=1)
    bumps = 1 + 0.15 * torch.sin(5 * directions[:, 0]) * torch.cos(4 * directions[:, 1])
    means = directions * (0.8 * (1 - 0.175 * normal(count).abs()) * bumps)[:, None]
    scales = 0.385 * count ** (-1 / 3) * torch.exp(0.5 * normal(count, 3))
    opacities = torch.sigmoid(1.5 * normal(count) + 0.3)
    leaves = [means, normal(count, 4), scales, opacities, torch.rand(count, 3, generator=generator)]
    azimuth = torch.rad2deg(0.3 + 2 * math.pi * torch.arange(views) / views)
    full = torch.ones(views)
    cameras = orbit(azimuth, math.degrees(0.25) * full, 2.4 * full, 49.0, size, size)
    return [leaf.requires_grad_() for leaf in leaves], cameras.world_to_cam, cameras.intrinsics


def time_once(count: int, size: int, views: int, backend: str) -> tuple[float, float, float]:
    """Return CPU seconds of forward, of forward + backward, and wall seconds of forward + backward."""
    leaves, viewmats, intrinsics = make_object(count, views, size)
    generator = torch.Generator().manual_seed(1)
    upstream = torch.randn(views, size, size, 3, generator=generator)
    upstream_alpha = torch.randn(views, size, size, 1, generator=generator)
    wall, start = time.perf_counter(), time.process_time()
    means, quats, scales, opacities, colours = leaves
    tensors = (means, quats, scales, opacities, colours, viewmats, intrinsics)
    image, alpha, _ = rasterise(*tensors, size, size, backend=backend)
    forward = time.process_time() - start
    torch.autograd.backward([image, alpha], [upstream, upstream_alpha])
    return forward, time.process_time() - start, time.perf_counter() - wall


def measure(count: int, size: int, views: int, repeats: int) -> dict[str, Any]:
    """Return medians in milliseconds for both back ends, and their ratios."""
    backends = ["cpu"]
    if count * size * size * views <= REFERENCE_LIMIT:
        backends.insert(0, "reference")
    samples: dict[str, list[tuple[float, float, float]]] = {name: [] for name in backends}
    for round_index in range(repeats + 1):
        for name in backends:
            if name == "reference" and round_index > max(2, repeats // 4):
                continue  # slow and steady: few samples do
            sample = time_once(count, size, views, name)
            if round_index:  # the first round compiles and warms up
                samples[name].append(sample)
    row: dict[str, Any] = {"gaussians": count, "size": size, "views": views}
    for name, values in samples.items():
        medians = [1000 * statistics.median(column) for column in zip(*values, strict=True)]
        row[name] = dict(zip(("forward_ms", "both_ms", "both_wall_ms"), medians, strict=True))
    if "reference" in row:
        row["ratio"] = {key: row["reference"][key] / row["cpu"][key] for key in row["cpu"]}
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text."""
    lines = [f"{'scene':>18} {'back end':>10} {'forward':>10} {'fwd+bwd':>10} {'wall':>10}   CPU ms, medians"]
    for row in rows:
        scene = f"{row['views']} x {row['size']}^2, {row['gaussians']}"
        for name in ("reference", "cpu", "ratio"):
            if name in row:
                lines.append(f"{scene:>18} {name:>10} " + " ".join(f"{value:10.1f}" for value in row[name].values()))
    return "\n".join(lines)


def main() -> None:
    """Measure all cases, print the table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    parser.add_argument("--repeats", type=int, default=15, help="samples a case (default 15)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*case, repeats=arguments.repeats) for case in CASES]
    sys.stdout.write(table(rows) + "\n")
    if arguments.json:
        result = {"torch": torch.__version__, "threads": 1, "rows": rows}
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
