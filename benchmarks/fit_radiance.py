"""Fit a field to pictures of a toybox object: python benchmarks/fit_radiance.py [--kind nerf|neus|volsdf]
[--noun mug] [--size PX] [--views N] [--steps N] [--picture FILE] [--mesh FILE] [--json FILE].

Rays, samples, empty space, fields, gradients and meshing must work together, or unseen views stay wrong. The object is
lit by a lamp that stands still, so a point has one colour from all sides, as these fields assume. The table shows the
peak signal-to-noise ratio of views that were never trained on, and the chamfer distance of the mesh: the mean distance
from its surface to the visible surface of the object and back, in percent of the object's longest side.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.nerf import NerfRenderer, nerf_renderer
from renderers.sdf import SdfRenderer, sdf_renderer
from sds3d.cameras import Cameras, orbit
from sds3d.config.nerf import EncodingConfig, NerfConfig, SamplingConfig, SdfConfig
from sds3d.export.mesh import write_mesh
from sds3d.export.sheet import write_contact_sheet
from sds3d.hardware import processor
from sds3d.meshing.mesh import Mesh
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from sds3d.toybox.raster import render_view
from sds3d.toybox.shape import ToyMesh

LAMP = (0.5, 0.3, 0.8)
DISTANCE, FOV_DEG = 2.5, 45.0
FINAL_RATE = 0.1
"""All learning rates fall to this share of themselves, geometrically."""
RATES = {"encoding": 0.02, "network": 0.01, "background": 0.001, "sharpness": 0.02}
WEIGHTS = {"eikonal": 0.01, "entropy": 0.001}
Array = NDArray[np.float32]
Renderer = NerfRenderer | SdfRenderer


@dataclass
class Result:
    """What was reached after `step` steps; `chamfer` in percent of the object's longest side."""

    step: int
    psnr: float
    chamfer: float
    faces: int
    cpu_s: float


def toy(noun: str, seed: int = 0) -> ToyMesh:
    """Return a red specimen of `noun`."""
    return build(Description(noun=noun, color="red"), np.random.default_rng(seed))


def views(count: int, size: int, shift: float = 0.0) -> Cameras:
    """Return `count` cameras on a spiral from below to above the object; `shift` turns it between the others."""
    place = (torch.arange(count, dtype=torch.float32) + 0.5) / count
    azimuth = ((torch.arange(count) + shift) * 137.5078) % 360.0
    return orbit(azimuth, -25.0 + 85.0 * place, torch.full((count,), DISTANCE), FOV_DEG, size, size)


def pictures(mesh: ToyMesh, cameras: Cameras) -> Tensor:
    """Return [B, H, W, 4] premultiplied colour and coverage."""
    lamp, shots = np.asarray(LAMP) / np.linalg.norm(LAMP), []
    for camera in cameras.cam_to_world.numpy():
        view = render_view(mesh, camera, cameras.width, FOV_DEG)
        light = 0.6 + 0.4 * (view.normal @ lamp).clip(0.0)
        rgb = view.albedo * light[..., None] * view.alpha[..., None]
        shots.append(np.concatenate([rgb, view.alpha[..., None]], axis=-1).astype(np.float32))
    return torch.from_numpy(np.stack(shots)).clamp(0, 1)


def on(shots: Tensor, background: Tensor) -> Tensor:
    """Return `shots` [B, H, W, 4] on `background` [B, 3]."""
    return shots[..., :3] + (1.0 - shots[..., 3:]) * background[:, None, None]


def fresh(kind: str, seed: int = 0) -> Renderer:
    """Return a field before training."""
    generator = torch.Generator().manual_seed(seed)
    encoding, sampling = EncodingConfig(), SamplingConfig(count=64)
    if kind == "nerf":
        config = NerfConfig(
            encoding=encoding, sampling=sampling, density_activation="exp", blob_radius=0.8, blob_scale=2.0
        )
        return nerf_renderer(config, generator)
    return sdf_renderer(
        SdfConfig(encoding=encoding, sampling=sampling, rule=kind, sharpness=60.0, init_radius=0.6), generator
    )


def thinned(cameras: Cameras, stride: int, row: int, column: int) -> Cameras:
    """Return cameras that see every `stride`-th pixel of each row and column, from (`row`, `column`) on: fewer rays."""
    intrinsics = cameras.intrinsics.clone()
    intrinsics[:, :2] /= stride
    first = torch.tensor([column, row], dtype=torch.float32)
    intrinsics[:, :2, 2] = (cameras.intrinsics[:, :2, 2] - first - 0.5) / stride + 0.5
    return replace(cameras, intrinsics=intrinsics, width=cameras.width // stride, height=cameras.height // stride)


def fit(kind: str, mesh: ToyMesh, size: int, count: int, steps: int, batch: int = 4, seed: int = 0) -> Renderer:
    """Return a field trained on `count` views of `mesh`: a step sees a quarter of the pixels of `batch` of them, on
    random plain colours."""
    renderer, cameras = fresh(kind, seed), views(count, size)
    shots, draws = pictures(mesh, cameras), torch.Generator().manual_seed(seed + 1)
    rates = {name: RATES[name] for name in renderer.groups}
    optimiser = torch.optim.Adam(renderer.parameter_groups(rates), betas=(0.9, 0.99), eps=1e-15)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rates[group["name"]] * FINAL_RATE ** (step / steps)
        chosen = torch.randperm(count, generator=draws)[:batch]
        background = torch.rand(batch, 3, generator=draws)
        row, column = torch.randint(2, (2,), generator=draws).tolist()
        wanted = shots[chosen, row::2, column::2]
        render = renderer(thinned(cameras[chosen], 2, row, column), background)
        loss = (render.rgb - on(wanted, background)).square().mean() + (render.alpha - wanted[..., 3:]).square().mean()
        for name, term in renderer.regularisers(render):
            if name in WEIGHTS:
                loss = loss + WEIGHTS[name] * term
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        renderer.after_step(step, optimiser, render)
    return renderer


def draw(renderer: Renderer, cameras: Cameras) -> Tensor:
    """Return pictures [B, H, W, 3] on white, without a graph."""
    with torch.no_grad():
        return renderer(cameras, torch.ones(len(cameras), 3)).rgb


def psnr(shown: Tensor, wanted: Tensor) -> float:
    """Return the peak signal-to-noise ratio in decibels of pictures in [0, 1], all together."""
    return -10.0 * math.log10(max(float((shown.clamp(0, 1) - wanted).square().mean()), 1e-12))


def surface_points(corners: Array, count: int, seed: int = 0) -> Array:
    """Return `count` points [count, 3] spread evenly over triangles [F, 3, 3]."""
    draws = np.random.default_rng(seed)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = draws.choice(len(corners), count, p=area / area.sum())
    a, b = np.sqrt(draws.random((count, 1))), draws.random((count, 1))
    chosen = corners[face]
    return ((1 - a) * chosen[:, 0] + a * (1 - b) * chosen[:, 1] + a * b * chosen[:, 2]).astype(np.float32)


def visible_points(mesh: ToyMesh, count: int = 20_000) -> Array:
    """Return points on the surface that some camera sees: parts overlap, and what is inside others is not there."""
    points, cameras = surface_points(mesh.corners, count), views(48, 256)
    seen = np.zeros(len(points), bool)
    for camera, world_to_cam in zip(cameras.cam_to_world.numpy(), cameras.world_to_cam.numpy(), strict=True):
        depth = render_view(mesh, camera, cameras.width, FOV_DEG).depth
        local = points @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
        focal = 0.5 * cameras.height / math.tan(math.radians(FOV_DEG) / 2)
        column, row = ((focal * local[:, axis] / local[:, 2] + 0.5 * cameras.width).astype(int) for axis in (0, 1))
        seen |= local[:, 2] < depth[row.clip(0, 255), column.clip(0, 255)] + 0.01
    return points[seen]


def chamfer(found: Mesh, mesh: ToyMesh) -> float:
    """Return the mean of both mean distances between the surfaces, in percent of the object's longest side."""
    from scipy.spatial import cKDTree

    wanted = visible_points(mesh)
    got = surface_points(found.vertices[found.faces], 20_000)
    there = cKDTree(surface_points(mesh.corners, 60_000)).query(got)[0].mean()
    back = cKDTree(got).query(wanted)[0].mean()
    size = (mesh.corners.max(axis=(0, 1)) - mesh.corners.min(axis=(0, 1))).max()
    return float(100.0 * 0.5 * (there + back) / size)


def mesh_pictures(mesh: Mesh, cameras: Cameras) -> Tensor:
    """Return pictures [B, H, W, 3] of a mesh on white; its colours hold the light already."""
    faces = mesh.faces
    count = len(faces)
    colors = mesh.colors[faces].mean(axis=1)
    parts = np.zeros(count, np.int16)
    shape = ToyMesh(mesh.vertices[faces], mesh.normals[faces], colors, colors, parts, ("mesh",), 0.0)
    shots = [render_view(shape, camera, cameras.width, FOV_DEG) for camera in cameras.cam_to_world.numpy()]
    images = [view.albedo * view.alpha[..., None] + 1.0 - view.alpha[..., None] for view in shots]
    return torch.from_numpy(np.stack(images))


def measure(
    kind: str, mesh: ToyMesh, size: int, count: int, steps: int, seed: int = 0
) -> tuple[Result, Mesh, Cameras, Tensor, Tensor]:
    """Return what a fit reached, its mesh, and 8 unseen cameras with the pictures wanted and drawn there."""
    began = time.process_time()
    renderer = fit(kind, mesh, size, count, steps, seed=seed)
    spent = time.process_time() - began
    unseen = views(8, size, shift=0.5)
    shown, wanted = draw(renderer, unseen), on(pictures(mesh, unseen), torch.ones(8, 3))
    found = renderer.to_mesh(64, 20_000)
    result = Result(steps, psnr(shown, wanted), chamfer(found, mesh), len(found.faces), spent)
    return result, found, unseen, wanted, shown


def main() -> None:
    """Run the fit, print the row and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("size", 64), ("views", 24), ("steps", 320), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--kind", choices=("nerf", "neus", "volsdf"), default="nerf")
    parser.add_argument("--noun", default="mug")
    for name in ("picture", "mesh", "json"):
        parser.add_argument(f"--{name}", type=Path)
    given = parser.parse_args()
    mesh = toy(given.noun, given.seed)
    result, found, unseen, wanted, shown = measure(given.kind, mesh, given.size, given.views, given.steps, given.seed)
    print(f"{given.kind}, {given.noun}, {given.views} views of {given.size} px; {processor()}")
    print(f"{'step':>6} {'PSNR dB':>8} {'chamfer %':>10} {'faces':>7} {'CPU s':>7}")
    print(f"{result.step:6} {result.psnr:8.2f} {result.chamfer:10.2f} {result.faces:7} {result.cpu_s:7.1f}")
    if given.json:
        setting = {name: getattr(given, name) for name in ("kind", "noun", "size", "views", "steps", "seed")}
        record = {**setting, "processor": processor(), **asdict(result)}
        given.json.write_text(json.dumps(record, indent=1) + "\n")
    if given.mesh:
        write_mesh(given.mesh, found)
    if given.picture:
        rows = wanted[::2], shown[::2], mesh_pictures(found, unseen[::2])
        words = "unseen view", f"{given.kind}, {result.psnr:.1f} dB", f"mesh, chamfer {result.chamfer:.1f} %"
        labels = [word for word in words for _ in range(4)]
        write_contact_sheet(given.picture, torch.cat(rows).clamp(0, 1).numpy(), 4, labels, upscale=2)


if __name__ == "__main__":
    main()
