"""What benchmarks/relighting.py keeps of each row, what it compares rows with, and the page it makes of them."""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sds3d.datasets.rendered import RenderedSet, spread
from sds3d.datasets.view_set import ViewSet
from sds3d.shading.brdf import Material
from sds3d.shading.colour import to_display
from sds3d.shading.deferred import ShadeSettings, composite, shade_points
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import view_directions
from systems.radiance_to_pbr_report import Measured
from systems.radiance_to_pbr_source import HELD_OUT

VIEW = 0
"""Held-out view that is shown in pictures."""
MODELLED, UNMODELLED = 0.02, 0.08
"""Largest and smallest error, in display values, that a distant light makes where it does, or does not, explain the truth."""
SHOWN = ("truth", "mixture", "baked", "physical", "progress", "normal", "base colour", "roughness", "metalness")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scene: str
    method: str
    numbers: dict[str, float | None]
    cpu_s: float


def row_file(folder: Path | None, scene: str, method: str, given: argparse.Namespace) -> Path | None:
    """Return where a row is kept: another file for other settings."""
    if folder is None:
        return None
    settings = {key: getattr(given, key) for key in ("scale", "size", "views", "count", "seed", "set")}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return folder / f"{scene}-{method}-{digest}.pt"


def known(scene: str, views: ViewSet) -> tuple[Row, dict[str, Tensor]]:
    """Return the row of true geometry, materials and lights, shaded by the split sum without shadows.

    mode: "coupled", as the truth is rendered.
    """
    from sds3d.metrics.images import psnr, ssim

    numbers: dict[str, float | None] = {}
    white, pictures, relit = torch.ones(len(views), 3), {}, []
    for name in (views.light, *views.relit):
        other = "" if name == views.light else name
        shown = composite(_shaded(views, name), views.alpha, white).clamp(0.0, 1.0)
        pair = shown.numpy(), views.on(white, other).numpy()
        found = float(psnr(*pair).mean()), float(ssim(*pair).mean())
        pictures[f"{name}, known"] = shown[VIEW]
        if other:
            relit.append(found)
        else:
            numbers["psnr"], numbers["ssim"] = found
    if relit:
        numbers["relit_psnr"], numbers["relit_ssim"] = (sum(part) / len(relit) for part in zip(*relit, strict=True))
    return Row(scene, "known", numbers, 0.0), pictures


def _shaded(views: ViewSet, light: str) -> Tensor:
    """Return what the true surfaces show under a light of the set, [B, H, W, 3] display-referred."""
    lit = EnvironmentLight.from_latlong(
        views.lights[light], RenderedSet(scene=views.name).light_resolution
    ).prefiltered()
    if views.albedo is None or views.roughness is None or views.metallic is None or views.normals is None:
        raise ValueError("a rendered set knows its materials")
    material = Material(views.albedo, views.roughness, views.metallic)
    points = views.normals, view_directions(views.cameras)
    return to_display(shade_points(material, *points, lit, ShadeSettings(mode="coupled")).rgb, views.view_transform)


def split_progress(scene: str, measured: Measured, views: ViewSet) -> dict[str, float | None]:
    """Return the mean progress, and the mean error of base colours, where a distant light explains the truth and not.

    Explained is where the same scene, rendered without shadows and reflections between surfaces, looks the same.
    """
    from sds3d.datasets.scenes import make_scene
    from sds3d.datasets.truth import render

    given = RenderedSet(scene=scene, views=HELD_OUT, size=views.cameras.width, turn_deg=75.0)
    light = EnvironmentLight.from_latlong(views.lights[views.light], given.light_resolution).prefiltered()
    cameras = spread(given.views, given.size, turn_deg=given.turn_deg)
    with torch.no_grad():
        bare = render(
            make_scene(scene),
            cameras,
            {"l": light},
            "l",
            given.samples,
            given.supersample,
            given.seed,
            is_shadowed=False,
        )
    apart = (bare.images - views.images).abs().mean(dim=-1)
    solid = (torch.minimum(views.alpha, measured.shown.gbuffer.alpha) >= 0.5)[..., 0]
    numbers: dict[str, float | None] = {}
    for name, where in (("modelled", apart < MODELLED), ("unmodelled", apart > UNMODELLED)):
        mask = where & solid
        numbers[f"share_{name}"] = float(mask.sum() / solid.sum())
        numbers[f"progress_{name}"] = float(measured.shown.progress[mask].mean()) if mask.any() else None
        for part in ("mixed", "raw"):
            error = (getattr(measured.shown, part)[mask] - views.images[mask]).abs()
            numbers[f"{part}_l1_{name}"] = float(error.mean()) if mask.any() else None
    return numbers


def pictures_of(measured: Measured, views: ViewSet) -> dict[str, Tensor]:
    """Return pictures [H, W, 3] of one view: the truth, the mixture, its parts, all buffers, and relit ones."""
    shown, alpha = measured.shown, measured.shown.gbuffer.alpha
    white = torch.ones(len(views), 3)
    planes = {
        "mixture": shown.mixed,
        "baked": shown.raw,
        "physical": torch.ones_like(shown.raw) if shown.physical is None else shown.physical,
        "progress": shown.progress,
        "normal": 0.5 + 0.5 * shown.gbuffer.normal,
        "base colour": shown.gbuffer.base_colour.clamp_min(1e-6).pow(1 / 2.2),
        "roughness": shown.gbuffer.roughness,
        "metalness": shown.gbuffer.metallic,
    }
    found = {name: composite(plane.expand(-1, -1, -1, 3), alpha, white)[VIEW] for name, plane in planes.items()}
    found["truth"] = views.on(white)[VIEW]
    for name, picture in measured.relit.items():
        found |= {f"{name}, truth": views.on(white, name)[VIEW], name: picture[VIEW]}
    return {name: picture.clamp(0.0, 1.0) for name, picture in found.items()}


def write_docs(folder: Path, table: str, record: str, pictures: dict[str, dict[str, Tensor]]) -> None:
    """Write table.md, rows.json, sheet.png (a line a scene, of the method) and progress.png into `folder`.

    Rows of the mesh variant, if there are any, have sheets of their own: mesh-sheet.png, mesh-progress.png.
    """
    from sds3d.export.atomic import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "table.md", f"```\n{table}\n```\n".encode())
    write_bytes(folder / "rows.json", record.encode())
    for method, prefix in (("progressive", ""), ("mesh", "mesh-")):
        mine = {key.split("/")[0]: shown for key, shown in pictures.items() if key.endswith(f"/{method}")}
        if mine:
            _write_sheets(folder, prefix, mine)


def _write_sheets(folder: Path, prefix: str, mine: dict[str, dict[str, Tensor]]) -> None:
    """Write the pictures of scenes, by their names, as two pages."""
    from sds3d.export.sheet import write_contact_sheet

    relit = [name for name in next(iter(mine.values())) if name not in SHOWN]
    sheets = {"sheet": (*SHOWN, *relit), "progress": ("truth", "mixture", "baked", "physical", "progress")}
    for name, columns in sheets.items():
        cells = [shown[column] for shown in mine.values() for column in columns]
        labels = [f"{scene}: {column}" if column == columns[0] else column for scene in mine for column in columns]
        upscale = max(1, round((96 if name == "sheet" else 160) / cells[0].shape[0]))
        file = folder / f"{prefix}{name}.png"
        write_contact_sheet(file, torch.stack(cells).numpy(), len(columns), labels, upscale=upscale)
