"""Time the rasteriser's kernels as compiled for lesser processors: python benchmarks/rasteriser_processors.py [--repeats N].

Kernels name no instruction, so the same sources become code for whatever processor numba finds. Here processes take turns
that are told to compile for another one (NUMBA_CPU_NAME): this machine's own; haswell, with AVX2 and fused
multiply-add; and x86-64, with SSE2 alone. What a real one of those would take is not known, but how
much slower than this one it is for want of instructions is. Printed: the quickest tenth of calls in CPU time, medians
over processes, and the largest difference to this machine's own picture and gradients. The first process of each kind
compiles and does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

PROCESSORS = {"own": {}, "haswell": {"NUMBA_CPU_NAME": "haswell"}, "x86-64": {"NUMBA_CPU_NAME": "x86-64"}}
CALLS = 100


def measure(count: int, size: int, file: Path) -> dict[str, float]:
    """Return the quickest tenth of calls in this process, and save what the last one has drawn and its gradients."""
    import rasteriser_contenders as contenders
    import torch
    from rasteriser_scene import Scene

    from renderers.gaussians.rasterise import rasterise

    torch.set_num_threads(1)
    scene = Scene.make(count, size, 1)
    contenders.run_ours(scene)  # compiles
    forward, both = zip(*[contenders.run_ours(scene) for _ in range(CALLS)], strict=True)
    image, alpha, _ = rasterise(*scene.leaves, scene.viewmats, scene.Ks, size, size, backend="cpu")
    torch.save([image.detach(), alpha.detach(), *[leaf.grad for leaf in scene.leaves]], file)
    return {"forward": statistics.quantiles(forward, n=10)[0], "both": statistics.quantiles(both, n=10)[0]}


def difference(own: Path, other: Path) -> tuple[float, float]:
    """Return the largest difference of the pictures, and of gradients relative to their norm."""
    import torch

    ours, others = (torch.load(file, weights_only=True) for file in (own, other))
    pictures = max(float((a - b).abs().max()) for a, b in zip(ours[:2], others[:2], strict=True))
    return pictures, max(float((a - b).norm() / a.norm()) for a, b in zip(ours[2:], others[2:], strict=True))


def run(name: str, case: list[str], file: Path) -> dict[str, float]:
    """Return what a process measures that compiles for a processor."""
    features = {"NUMBA_CPU_FEATURES": ""} if PROCESSORS[name] else {}
    command = [sys.executable, __file__, "--one", str(file), "--case", *case]
    env = {**os.environ, **PROCESSORS[name], **features}
    return dict(json.loads(subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout))


def main() -> None:
    """Start processes in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="processes of each kind that count (default 5)")
    parser.add_argument("--case", nargs=2, default=["10000", "128"], help="Gaussians, and pixels a side", metavar="N")
    parser.add_argument("--one", type=Path, help="measure in this process, print JSON, save results to this file")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.one:
        sys.stdout.write(json.dumps(measure(*map(int, arguments.case), arguments.one)))
        return
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in PROCESSORS}
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.pt" for name in PROCESSORS}
        for turn in range(arguments.repeats + 1):
            for name in PROCESSORS:
                row = run(name, arguments.case, files[name])
                rows[name] += [row] if turn else []
        found: dict[str, Any] = {
            name: {key: 1e3 * statistics.median(row[key] for row in rows[name]) for key in ("forward", "both")}
            for name in PROCESSORS
        }
        for name, file in files.items():
            found[name]["picture"], found[name]["gradients"] = difference(files["own"], file)
    sys.stdout.write(
        f"{'compiled for':>12} {'forward':>10} {'fwd+bwd':>10} {'times own':>15}   picture, gradients differ by\n"
    )
    for name, row in found.items():
        ratio = f"{row['forward'] / found['own']['forward']:7.2f} {row['both'] / found['own']['both']:7.2f}"
        errors = f"{row['picture']:.1e} {row['gradients']:.1e}"
        sys.stdout.write(f"{name:>12} {row['forward']:8.2f}ms {row['both']:8.2f}ms {ratio:>15}   {errors}\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
