"""Time the CPU mesh rasteriser: python benchmarks/mesh_rasteriser.py [--sizes 64,128] [--repeats N] [--json FILE].

A sphere of 20 480 faces, one view. For each picture size, medians of CPU time of one thread:

    forward       `rasterise`: faces, barycentric weights, depth
    fwd+bwd       the same and its gradient to the clip coordinates
    picture       clip coordinates, `rasterise`, interpolated colours and mask, `antialias`: a picture as training sees it
    picture+bwd   the same and its gradient to vertices and colours

Beside it the brute-force `reference` (at sizes where that takes seconds), and PyTorch3D's CPU rasteriser as measured once on
a 2-core machine (built from source; 20 480 faces, CPU seconds over two threads; its fwd+bwd includes Phong shading): there
is no CPU wheel of it, so it is not run here.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.edges import neighbours
from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise
from sds3d.cameras import Cameras, turntable

SIZES = (64, 128, 256, 512)
SUBDIVISIONS = 5
"""Of an icosahedron: 20 * 4^5 = 20 480 faces."""
PYTORCH3D_FORWARD_S = {64: 1.4, 128: 3.7, 256: 12.5, 512: 50.0}
PYTORCH3D_BOTH_S = {128: 9.0, 256: 18.0, 512: 64.0}
"""CPU seconds, as the docstring above says; 256 forward was 12 to 13. One face a pixel at 256 and 512 fwd+bwd."""
REFERENCE_PAIRS = 100_000_000
"""Pixel-face pairs up to which the reference is timed, once."""


def sphere(subdivisions: int = SUBDIVISIONS) -> tuple[Tensor, Tensor]:
    """Return vertices [V, 3] and faces [F, 3] of a sphere of radius 0.8."""
    import trimesh

    mesh = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.8)
    return torch.tensor(mesh.vertices, dtype=torch.float32), torch.tensor(mesh.faces, dtype=torch.int64)


def run_rasterise(clip: Tensor, faces: Tensor, size: int, backend: str) -> tuple[float, float]:
    """Return the CPU seconds of forward and of forward + backward."""
    clip = clip.clone().requires_grad_()
    start = time.process_time()
    drawn = rasterise(clip, faces, size, size, backend)
    forward = time.process_time() - start
    loss = drawn.barycentric.square().sum() + drawn.depth.sum()
    middle = time.process_time()
    loss.backward()
    return forward, forward + time.process_time() - middle


def run_picture(vertices: Tensor, faces: Tensor, beyond: Tensor, cameras: Cameras) -> tuple[float, float]:
    """Return the CPU seconds of a picture with colours, mask and soft outlines, and with its gradient."""
    points, colours = vertices.clone().requires_grad_(), torch.rand(len(vertices), 3).requires_grad_()
    start = time.process_time()
    clip = clip_from(cameras, points)
    drawn = rasterise(clip, faces, cameras.height, cameras.width)
    image = torch.cat([interpolate(colours, faces, drawn), drawn.mask[..., None].float()], dim=-1)
    image = antialias(image, drawn, clip, faces, beyond)
    forward = time.process_time() - start
    loss = image.square().sum()
    middle = time.process_time()
    loss.backward()
    return forward, forward + time.process_time() - middle


def medians(run: Callable[[], tuple[float, float]], repeats: int) -> list[float]:
    """Return the median milliseconds of both numbers; the first run compiles and warms up, and does not count."""
    samples = [run() for _ in range(repeats + 1)][1:]
    return [1e3 * statistics.median(values) for values in zip(*samples, strict=True)]


def measure(size: int, repeats: int, subdivisions: int = SUBDIVISIONS) -> dict[str, Any]:
    """Return the timings of one picture size, in milliseconds [forward, forward + backward]."""
    vertices, faces = sphere(subdivisions)
    cameras, beyond = turntable(1, size), neighbours(faces)
    clip = clip_from(cameras, vertices)
    row: dict[str, Any] = {"size": size, "faces": len(faces)}
    row["rasterise_ms"] = medians(lambda: run_rasterise(clip, faces, size, "cpu"), repeats)
    row["picture_ms"] = medians(lambda: run_picture(vertices, faces, beyond, cameras), repeats)
    if len(faces) * size * size <= REFERENCE_PAIRS:
        row["reference_ms"] = [1e3 * seconds for seconds in run_rasterise(clip, faces, size, "reference")]
    if subdivisions == SUBDIVISIONS:
        row["pytorch3d_published_ms"] = [
            1e3 * seconds if seconds else None
            for seconds in (PYTORCH3D_FORWARD_S.get(size), PYTORCH3D_BOTH_S.get(size))
        ]
    return row


def threads(repeats: int) -> dict[str, float]:
    """Return wall milliseconds of a 512 px picture, forward + backward, by one and by two threads."""
    vertices, faces = sphere()
    cameras, beyond = turntable(1, 512), neighbours(faces)
    walls: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(repeats + 1):
        for count in (1, 2):
            torch.set_num_threads(count)
            start = time.perf_counter()
            run_picture(vertices, faces, beyond, cameras)
            if turn:
                walls[count].append(time.perf_counter() - start)
    torch.set_num_threads(1)
    one, two = (1e3 * statistics.median(walls[count]) for count in (1, 2))
    return {"one_ms": one, "two_ms": two, "speedup": one / two}


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as text."""
    lines = [f"{'size':>5} {'contender':>22} {'forward':>12} {'fwd+bwd':>12}   {'times the time of rasterise':>30}"]
    names = ("rasterise_ms", "picture_ms", "reference_ms", "pytorch3d_published_ms")
    for row in rows:
        for name in names:
            if name not in row:
                continue
            cells = ["" if value is None else f"{value:10.1f}ms" for value in row[name]]
            pairs = zip(row[name], row["rasterise_ms"], strict=True)
            ratios = ["" if value is None else f"{value / ours:12.1f}" for value, ours in pairs]
            shown = "" if name == "rasterise_ms" else " ".join(ratios)
            label = name.removesuffix("_ms").replace("_", " ")
            lines.append(f"{row['size']:>5} {label:>22} {cells[0]:>12} {cells[1]:>12}   {shown:>30}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(str(size) for size in SIZES), help="pixels, separated by commas")
    parser.add_argument("--repeats", type=int, default=15, help="samples a contender (default 15)")
    parser.add_argument("--threads", action="store_true", help="also compare two threads with one, by wall time")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(int(size), arguments.repeats) for size in arguments.sizes.split(",")]
    sys.stdout.write(table(rows) + "\n")
    result: dict[str, Any] = {"torch": torch.__version__, "rows": rows}
    if arguments.threads:
        result["threads"] = threads(arguments.repeats)
        sys.stdout.write("threads: " + ", ".join(f"{k} {v:.4g}" for k, v in result["threads"].items()) + "\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
