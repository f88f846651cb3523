"""Fit Gaussians to pictures of other Gaussians: python benchmarks/fit.py [--count N] [--size PX] [--views N] [--steps N]
[--mode off|relocate|default|mcmc] [--backend NAME] [--picture FILE] [--json FILE].

The whole chain of projection, blending, both backward passes, Adam and density control must work together, or the
pictures stay wrong. The target is a bumpy ball of random Gaussians in random colours, seen from a ring of cameras; the
fit starts from a grey ball of round ones and descends the mean absolute difference of all views at once. The table
shows the peak signal-to-noise ratio of the training views and of views between them; the picture shows both.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from renderers.gaussians import initialise, sh
from renderers.gaussians.density import MODES, DensitySettings
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import Cameras, turntable
from sds3d.export.sheet import write_contact_sheet
from sds3d.hardware import processor, threads

RATES = {"means": 0.004, "quats": 0.02, "log_scales": 0.02, "opacity_logits": 0.05, "sh0": 0.02}
FINAL_RATE = 0.1
"""All learning rates fall to this share of themselves, geometrically."""
DISTANCE, FOV_DEG, GREY = 2.4, 49.0, 1.0


@dataclass
class Point:
    """One row of the table: what was reached after `step` steps, and what it cost."""

    step: int
    psnr: float
    psnr_between: float
    gaussians: int
    cpu_s: float


def target(count: int, seed: int = 0) -> Gaussians:
    """Return `count` anisotropic Gaussians in random colours on a bumpy ball of radius about 0.7."""
    draws = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(count, 3, generator=draws), dim=1)
    depth = 1.0 - 0.175 * torch.randn(count, 1, generator=draws).abs()
    bumps = 1.0 + 0.15 * (torch.sin(5 * directions[:, :1]) * torch.cos(4 * directions[:, 1:2]))
    # Neighbours share a colour, as on real things; pure noise of pixel size is nothing that one would want to fit.
    waves = torch.stack([torch.sin(4.0 * directions @ torch.randn(3, generator=draws)) for _ in range(3)], dim=1)
    rgb = (0.5 + 0.35 * waves + 0.1 * torch.randn(count, 3, generator=draws)).clamp(0.0, 1.0)
    size = 0.385 * count ** (-1.0 / 3.0)
    return Gaussians(
        means=0.8 * depth * bumps * directions,
        quats=torch.randn(count, 4, generator=draws),
        log_scales=math.log(size) + 0.5 * torch.randn(count, 3, generator=draws),
        opacity_logits=1.5 * torch.randn(count, generator=draws) + 0.3,
        sh0=sh.sh0_from_rgb(rgb),
    )


def cameras(views: int, size: int, between: bool = False) -> Cameras:
    """Return a ring of cameras, or the ring in the gaps of the first one."""
    ring = turntable(2 * views, size, 15.0, DISTANCE, FOV_DEG)
    return ring[1::2] if between else ring[0::2]


def psnr(pictures: Tensor, wanted: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of pictures in [0, 1] (limited to it), all views together."""
    return -10.0 * math.log10(max(float((pictures.clamp(0, 1) - wanted).square().mean()), 1e-12))


def draw(renderer: GaussianRenderer, views: Cameras) -> Tensor:
    """Return the pictures [B, H, W, 3] without a graph."""
    with torch.no_grad():
        return renderer(views, torch.full((len(views), 3), GREY)).rgb


def fit(
    count: int,
    size: int,
    views: int,
    steps: int,
    *,
    seed: int = 0,
    mode: str = "relocate",
    backend: str = "auto",
    report_at: Sequence[int] = (),
    on_report: Callable[[Point, Tensor], None] | None = None,
) -> list[Point]:
    """Fit `count` Gaussians to as many others and return what was reached at each step of `report_at` and at the end.

    on_report: called with each point and the pictures [2 views, H, W, 3], training views first.
    """
    settings = GaussianSettings(backend=backend, density=density(mode, count, steps))
    wanted = GaussianRenderer(target(count, seed), GaussianSettings(backend=backend))
    rings = cameras(views, size), cameras(views, size, between=True)
    goals = [draw(wanted, ring) for ring in rings]
    start = initialise.ball(count, 0.8, torch.Generator().manual_seed(seed + 1), opacity=0.1)
    renderer = GaussianRenderer(start, settings)
    optimiser = torch.optim.Adam(renderer.parameter_groups(RATES), eps=1e-15)
    background, began, points = torch.full((views, 3), GREY), time.process_time(), []
    for step in range(steps + 1):
        if step in report_at or step == steps:
            shown = [draw(renderer, ring) for ring in rings]
            quality = [psnr(*pair) for pair in zip(shown, goals, strict=True)]
            points.append(Point(step, *quality, renderer.count, time.process_time() - began))
            if on_report is not None:
                on_report(points[-1], torch.cat(shown))
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = RATES[group["name"]] * FINAL_RATE ** (step / steps)
        render = renderer(rings[0], background)
        optimiser.zero_grad()
        (render.rgb - goals[0]).abs().mean().backward()
        optimiser.step()
        renderer.after_step(step, optimiser, render)
    return points


def density(mode: str, count: int, steps: int) -> DensitySettings:
    """Return density control for a short run that keeps about `count` Gaussians."""
    window = {"start": steps // 10, "stop": steps * 7 // 10, "every": max(1, steps // 20)}
    return DensitySettings(
        mode=mode, **window, min_opacity=0.01, max_count=count, reset_every=0, grow_gradient=1e-5, noise_rate=1e3
    )


def main() -> None:
    """Run the fit, print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("count", 5000), ("size", 128), ("views", 8), ("steps", 400), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--mode", choices=MODES, default="relocate")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    moments = sorted({0, *(given.steps * share // 100 for share in (5, 12, 25, 50, 75))})
    print(f"{given.count} Gaussians, {given.views} views of {given.size} px, mode {given.mode}; {processor()}")
    print(f"{'step':>6} {'PSNR dB':>8} {'between':>8} {'Gaussians':>10} {'CPU s':>8}")
    shown: list[tuple[Point, Tensor]] = []

    def report(point: Point, pictures: Tensor) -> None:
        shown.append((point, pictures))
        print(
            f"{point.step:6} {point.psnr:8.2f} {point.psnr_between:8.2f} {point.gaussians:10} {point.cpu_s:8.1f}",
            flush=True,
        )

    points = fit(
        given.count,
        given.size,
        given.views,
        given.steps,
        seed=given.seed,
        mode=given.mode,
        backend=given.backend,
        report_at=moments,
        on_report=report,
    )
    if given.json:
        setting = {
            name: getattr(given, name) for name in ("count", "size", "views", "steps", "seed", "mode", "backend")
        }
        record = {**setting, "processor": processor(), "threads": threads(), "points": [vars(p) for p in points]}
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    if given.picture:
        write_picture(given.picture, given, shown)


def write_picture(path: Path, given: argparse.Namespace, shown: list[tuple[Point, Tensor]]) -> None:
    """Write a page: a column a moment and the target last; a training view above, a view between two of them below."""
    wanted = GaussianRenderer(target(given.count, given.seed))
    rings = cameras(given.views, given.size), cameras(given.views, given.size, between=True)
    picked = [moment for moment in shown if moment[0].step in (0, *(m[0].step for m in shown[2:]))]
    rows, labels = [], []
    for row, ring in enumerate(rings):
        rows += [pictures[row * given.views] for _, pictures in picked] + [draw(wanted, ring[:1])[0]]
        labels += [f"step {p.step}: {p.psnr_between if row else p.psnr:.1f} dB" for p, _ in picked] + [
            "target" if not row else "target, unseen view"
        ]
    write_contact_sheet(path, torch.stack(rows).clamp(0, 1).numpy(), len(picked) + 1, labels)


if __name__ == "__main__":
    main()
