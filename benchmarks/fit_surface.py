"""Fit a mesh to pictures of a toybox object: python benchmarks/fit_surface.py [--noun duck] [--geometry flexicubes|dmtet]
[--resolution N] [--size PX] [--views N] [--steps N] [--picture FILE] [--json FILE].

The target is an object of the toybox, drawn by its own renderer from cameras spread over the sphere. The fit starts from a
grey sphere and descends the differences of colours and of outlines, a few views a step. The table shows the peak
signal-to-noise ratio of views that were never trained on, and the Chamfer distance between the mesh and the points of the
object that can be seen, in per cent of the object's diameter.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from torch import Tensor

from renderers.surface import SurfaceRenderer
from renderers.surface_conversion import surface_renderer, to_mesh
from sds3d.cameras import Cameras, orbit
from sds3d.config.surface import SurfaceConfig
from sds3d.export.sheet import write_contact_sheet
from sds3d.hardware import processor, threads
from sds3d.toybox.shape import RADIUS, ToyMesh

FOV_DEG, DISTANCE = 45.0, 2.5
RATES = {"sdf": 0.03, "moves": 0.02, "weights": 0.02, "texture": 0.1, "network": 0.005}
FINAL_RATE = 0.1
"""All learning rates fall to this share of themselves, geometrically."""
WEIGHTS = {"normal_consistency": 0.05, "laplacian": 0.5, "sdf_entropy": 0.2, "deviation": 0.1}
VIEWS_A_STEP = 4


@dataclass
class Point:
    """One row of the table: what was reached after `step` steps, and what it cost."""

    step: int
    psnr: float
    chamfer_percent: float
    faces: int
    cpu_s: float


@dataclass
class Pictures:
    """Views of an object: rgb [B, H, W, 3] premultiplied, alpha [B, H, W, 1], visible points [P, 3], cameras."""

    rgb: Tensor
    alpha: Tensor
    points: Tensor
    cameras: Cameras


def spread(views: int, size: int, turn: float = 0.0) -> Cameras:
    """Return cameras over the sphere, between 30 degrees below and 75 above the horizon, on a golden spiral."""
    k = torch.arange(views, dtype=torch.float32)
    height = math.sin(math.radians(-30)) + (k + 0.5) / views * (
        math.sin(math.radians(75)) - math.sin(math.radians(-30))
    )
    azimuth = (k * 137.50776 + turn).remainder(360.0)
    full = torch.full((views,), DISTANCE)
    return orbit(azimuth, torch.rad2deg(torch.asin(height)), full, FOV_DEG, size, size)


def toy(noun: str, color: str = "red", seed: int = 0) -> ToyMesh:
    """Return one specimen of a noun."""
    from sds3d.toybox.captions import Description
    from sds3d.toybox.dataset import build

    return build(Description(noun=noun, color=color), np.random.default_rng(seed))


def pictures(mesh: ToyMesh, cameras: Cameras) -> Pictures:
    """Return what the toybox's renderer sees."""
    from sds3d.toybox.raster import render_view

    views = [render_view(mesh, matrix.numpy(), cameras.width, FOV_DEG) for matrix in cameras.cam_to_world]
    alpha = torch.from_numpy(np.stack([view.alpha for view in views]))[..., None]
    rgb = torch.from_numpy(np.stack([view.rgb for view in views])) * alpha
    depth = torch.from_numpy(np.stack([view.depth for view in views]))
    return Pictures(rgb, alpha, unproject(depth, alpha[..., 0] > 0.999, cameras), cameras)


def unproject(depth: Tensor, mask: Tensor, cameras: Cameras) -> Tensor:
    """Return the world points [P, 3] at the pixels of `mask` [B, H, W] with camera z `depth` [B, H, W]."""
    view, row, column = mask.nonzero(as_tuple=True)
    pixel = torch.stack([column + 0.5, row + 0.5, torch.ones(len(row))], dim=1)
    rays = torch.einsum("pij,pj->pi", torch.linalg.inv(cameras.intrinsics)[view], pixel)
    points = rays * depth[view, row, column][:, None]
    matrix = cameras.cam_to_world[view]
    return torch.einsum("pij,pj->pi", matrix[:, :3, :3], points) + matrix[:, :3, 3]


def chamfer_percent(renderer: SurfaceRenderer, visible: Tensor, count: int = 20_000) -> tuple[float, int]:
    """Return (mean distance both ways between mesh and visible points, in % of the diameter; triangles of the mesh)."""
    from scipy.spatial import cKDTree

    from renderers.isosurface.distances import sample_faces

    mesh = to_mesh(renderer)
    draws = torch.Generator().manual_seed(0)
    ours = sample_faces(torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces), count, draws)[0].numpy()
    theirs = visible[torch.randperm(len(visible), generator=draws)[:count]].numpy()
    both = cKDTree(theirs).query(ours)[0].mean() + cKDTree(ours).query(theirs)[0].mean()
    return float(100.0 * 0.5 * both / (2.0 * RADIUS)), len(mesh.faces)


@torch.no_grad()
def draw(renderer: SurfaceRenderer, cameras: Cameras, grey: float = 1.0) -> Tensor:
    """Return the pictures [B, H, W, 3], four views at a time."""
    groups = [cameras[k : k + 4] for k in range(0, len(cameras), 4)]
    return torch.cat([renderer(some, torch.full((len(some), 3), grey)).rgb for some in groups])


def psnr(shown: Tensor, wanted: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels, all views together."""
    return -10.0 * math.log10(max(float((shown.clamp(0, 1) - wanted).square().mean()), 1e-12))


def fit(
    target: ToyMesh,
    config: SurfaceConfig,
    *,
    views: int = 24,
    size: int = 64,
    steps: int = 250,
    seed: int = 0,
    report_at: Sequence[int] = (),
) -> tuple[list[Point], SurfaceRenderer, Pictures]:
    """Fit a mesh to `views` pictures and return what was reached at each step of `report_at` and at the end."""
    known = pictures(target, spread(views, size))
    unseen = pictures(target, spread(12, size, turn=70.0))
    visible, goal = torch.cat([known.points, unseen.points]), unseen.rgb + 1.0 - unseen.alpha
    draws = torch.Generator().manual_seed(seed)
    renderer = surface_renderer(config, draws)
    optimiser = torch.optim.Adam(renderer.parameter_groups(RATES), betas=(0.9, 0.99), eps=1e-15)
    began, points = time.process_time(), []
    for step in range(steps + 1):
        if step in report_at or step == steps:
            spent, shown = time.process_time() - began, draw(renderer, unseen.cameras)
            points.append(Point(step, psnr(shown, goal), *chamfer_percent(renderer, visible), spent))
            began = time.process_time() - spent
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = RATES[group["name"]] * FINAL_RATE ** (step / steps)
        chosen = torch.randperm(views, generator=draws)[:VIEWS_A_STEP]
        background = torch.rand(len(chosen), 3, generator=draws)
        render = renderer(known.cameras[chosen], background)
        wanted = known.rgb[chosen] + (1.0 - known.alpha[chosen]) * background[:, None, None]
        loss = (render.rgb - wanted).abs().mean() + (render.alpha - known.alpha[chosen]).square().mean()
        loss = loss + sum(WEIGHTS.get(name, 0.0) * term for name, term in renderer.regularisers(render))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        renderer.after_step(step, optimiser, render)
    return points, renderer, unseen


def main() -> None:
    """Run the fit, print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("resolution", 32), ("size", 64), ("views", 24), ("steps", 250), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--noun", default="duck")
    parser.add_argument("--color", default="yellow")
    parser.add_argument("--geometry", choices=("flexicubes", "dmtet"), default="flexicubes")
    parser.add_argument("--texture", choices=("grid", "field"), default="grid")
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    config = SurfaceConfig(geometry=given.geometry, resolution=given.resolution, texture={"kind": given.texture})
    print(f"{given.color} {given.noun}, {given.geometry} {given.resolution}, {given.views} views of {given.size} px")
    print(processor())
    moments = sorted({0, *(given.steps * share // 100 for share in (10, 33, 66))})
    points, renderer, unseen = fit(
        toy(given.noun, given.color),
        config,
        views=given.views,
        size=given.size,
        steps=given.steps,
        seed=given.seed,
        report_at=moments,
    )
    print(f"{'step':>6} {'PSNR dB':>8} {'Chamfer %':>10} {'triangles':>10} {'CPU s':>8}")
    for point in points:
        print(f"{point.step:6} {point.psnr:8.2f} {point.chamfer_percent:10.2f} {point.faces:10} {point.cpu_s:8.1f}")
    if given.json:
        record = {name: str(value) for name, value in vars(given).items()}
        record |= {"processor": processor(), "threads": threads(), "points": [vars(point) for point in points]}
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    if given.picture:
        write_picture(given.picture, renderer, unseen)


def write_picture(path: Path, renderer: SurfaceRenderer, unseen: Pictures) -> None:
    """Write a page of four unseen views: the object, the fit, the fit's normals."""
    some = slice(0, 12, 3)
    white = torch.ones(len(range(12)[some]), 3)
    with torch.no_grad():
        render = renderer(unseen.cameras[some], white)
    goal = unseen.rgb[some] + 1.0 - unseen.alpha[some]
    normals = (0.5 + 0.5 * render.normal) * (render.depth > 0) + (render.depth <= 0)  # type: ignore[operator]
    rows = torch.cat([goal, render.rgb, normals]).clamp(0, 1).numpy()
    labels = [f"{what} {k}" for what in ("object", "fit", "normals") for k in range(4)]
    write_contact_sheet(path, rows, 4, labels)


if __name__ == "__main__":
    main()
