"""Time the stroke rasteriser: python benchmarks/sketch.py [--repeats N] [--json FILE] [--no-dense].

Random cubic strokes as a run starts with (`in_sphere`), one view, forward and backward to control points, widths and
opacities; medians of CPU time of one thread. Three tables:

    paths     64 strokes at 256 x 256: `culled`, and the plain `dense` with the same numbers
    strokes   16 to 256 strokes at 256 x 256
    sizes     64 strokes at 64 to 512 pixels

Pairs are (stroke, pixel) pairs with ink. A plane is fitted to time over pairs and pixels of all rows of the last two tables;
its R^2 and slopes say whether the cost grows in proportion to strokes x pixels touched. diffvg has no wheel and needs CMake and
a compiler, so it is not run here; printed beside is what Liu et al., 2025 (Bezier Splatting, arXiv 2503.16424, project page)
measured of it on another scene and machine, so it gives an order of magnitude and no more.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch

from renderers.sketch import initialise
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import Strokes
from sds3d.cameras import turntable
from sds3d.config.sketch import SketchConfig

DIFFVG = "diffvg, 2048 open curves at 2040 x 1344 on an RTX 4090, as published: forward 141.3 ms, backward 701.3 ms"
COUNTS, SIZES = (16, 32, 64, 128, 256), (64, 128, 256, 512)


def sketch_of(count: int, backend: str) -> SketchRenderer:
    """Return `count` random strokes."""
    points = initialise.in_sphere(count, 0.5, torch.Generator().manual_seed(count))
    config = SketchConfig(backend=backend, softness=0.5)  # type: ignore[arg-type]
    return SketchRenderer(Strokes.of(points, half_width=0.012), config)


def measure(count: int, size: int, repeats: int, backend: str = "culled") -> dict[str, Any]:
    """Return medians of forward and backward, milliseconds of CPU, and the number of pairs."""
    from renderers.sketch.coverage import _pairs
    from renderers.sketch.kernels import reach
    from renderers.sketch.projection import project

    sketch, cameras, paper = sketch_of(count, backend), turntable(1, size), torch.ones(1, 3)
    cotangent = torch.randn(1, size, size, 3, generator=torch.Generator().manual_seed(0))
    forward, backward = [], []
    for _ in range(repeats + 1):
        sketch.zero_grad()
        start = time.process_time()
        render = sketch(cameras, paper)
        middle = time.process_time()
        (render.rgb * cotangent).sum().backward()
        forward.append(1e3 * (middle - start))
        backward.append(1e3 * (time.process_time() - middle))
    with torch.no_grad():
        lines = project(sketch.samples(), torch.nn.functional.softplus(sketch.half_widths), cameras)
        pairs = len(_pairs(lines, size, size, reach("gauss", 0.5))[0])
    first = 1 if repeats else 0  # the first compiles and warms up
    return {
        "strokes": count,
        "size": size,
        "path": backend,
        "pairs": pairs,
        "forward_ms": statistics.median(forward[first:]),
        "backward_ms": statistics.median(backward[first:]),
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the plane of total time over pairs and pixels: milliseconds at 0, microseconds for each, R^2."""
    columns = np.array([[1.0, row["pairs"], row["size"] ** 2] for row in rows])
    total = np.array([row["forward_ms"] + row["backward_ms"] for row in rows])
    plane = np.linalg.lstsq(columns, total, rcond=None)[0]
    rest = ((total - columns @ plane) ** 2).sum() / ((total - total.mean()) ** 2).sum()
    return {
        "ms_at_0": float(plane[0]),
        "us_a_pair": float(1e3 * plane[1]),
        "us_a_pixel": float(1e3 * plane[2]),
        "r_squared": float(1.0 - rest),
    }


def show(rows: list[dict[str, Any]]) -> None:
    """Print one table."""
    print("| strokes | size | path | pairs | forward ms | backward ms |\n|---|---|---|---|---|---|")
    for r in rows:
        numbers = f"{r['pairs']} | {r['forward_ms']:.1f} | {r['backward_ms']:.1f}"
        print(f"| {r['strokes']} | {r['size']} | {r['path']} | {numbers} |")
    print()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, default=None, help="also write the numbers here")
    parser.add_argument("--no-dense", action="store_true", help="leave out the slow reference")
    given = parser.parse_args()
    torch.set_num_threads(1)
    paths = [measure(64, 256, given.repeats)]
    if not given.no_dense:
        paths.append(measure(64, 256, 1, "dense"))
    strokes = [measure(count, 256, given.repeats) for count in COUNTS]
    sizes = [measure(64, size, given.repeats) for size in SIZES]
    for rows in (paths, strokes, sizes):
        show(rows)
    plane = growth(strokes + sizes)
    print(
        f"time = {plane['ms_at_0']:.1f} ms + {plane['us_a_pair']:.2f} us x pairs + {plane['us_a_pixel']:.3f} us x pixels, "
        f"R^2 = {plane['r_squared']:.3f}\n{DIFFVG}"
    )
    if given.json:
        given.json.write_text(
            json.dumps({"paths": paths, "strokes": strokes, "sizes": sizes, "growth": plane}, indent=1)
        )


if __name__ == "__main__":
    main()
