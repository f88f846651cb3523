"""Distil toybox scenes with known materials and lights: python benchmarks/relighting.py [--scenes NAME,...]
[--methods NAME,...] [--quick] [--scale SHARE] [--size PX] [--views N] [--count N] [--cache DIR] [--rows DIR] [--docs DIR].

Three rows a scene: radiance_to_pbr ("progressive"), the same steps with the physical picture alone ("physics"), and with
baked colours alone ("radiance", which cannot be relit). "mesh" and "mesh-physics", if asked for, are the first two on the
true surface of the scene, which is given and stays, so materials and light alone are learnt; "mesh-hull" is "mesh" on the
visual hull. The table shows views nobody trained on (PSNR in decibels, SSIM), the same views under two lights nobody trained
with, the error of normals in degrees, the mean errors of base colour (after scaling by the median of each channel),
roughness and metalness, the mean of the progress map where a light map explains the truth (within 0.02) and where it does
not (off by more than 0.08: shadows, reflections of neighbours), and CPU seconds.
A fourth row, "known", is no method: true geometry, materials and lights, shaded by the split sum without shadows. It is what
no method that explains pictures by a distant light can be expected to pass.

--rows keeps one file a row; a row that is there, with equal settings, is not trained again, so an interrupted benchmark goes
on where it was. --docs writes the table, the figures as JSON and two pictures of all rows that were asked for.

The scenes are path-traced with shadows and one reflection between surfaces, which no method models: "mirror" and "bowl" are
made so that this matters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from relighting_rows import Row, known, pictures_of, row_file, split_progress, write_docs
from torch import Tensor

from sds3d.config.materials import MaterialsConfig, load_materials
from sds3d.datasets.scenes import SCENES
from sds3d.hardware import processor, threads
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_report import measure
from systems.radiance_to_pbr_run import make
from systems.radiance_to_pbr_source import CACHE, Start, open_source

METHODS = ("progressive", "physics", "radiance")
ON_MESHES = {"mesh": ("progressive", "own"), "mesh-physics": ("physics", "own"), "mesh-hull": ("progressive", "hull")}
"""Rows of the mesh variant, the method and the surface of each."""
QUICK = (
    "shading.light_resolution=8",
    "stages.raw.steps=80",
    "stages.specular.steps=50",
    "stages.diffuse.steps=120",
    "stages.joint.steps=40",
    "learning_rates.base_colour=0.05",
    "learning_rates.roughness=0.05",
    "learning_rates.metallic=0.05",
    "learning_rates.light=0.05",
    "learning_rates.progress=0.1",
    "base_colour_start=0.5",
    "roughness_start=0.5",
)
"""What --quick sets, beside 24 views of 32 pixels and 900 Gaussians: fewer steps that are larger."""
COLUMNS = {
    "psnr": "8.2f",
    "ssim": "6.3f",
    "relit_psnr": "8.2f",
    "relit_ssim": "6.3f",
    "normal_deg": "7.1f",
    "albedo_l1": "7.3f",
    "roughness_l1": "6.3f",
    "metallic_l1": "6.3f",
    "progress_modelled": "8.3f",
    "progress_unmodelled": "6.3f",
}
TITLES = ("PSNR", "SSIM", "relit", "SSIM", "normal", "albedo", "rough", "metal", "progress", "where")


def recipe(method: str, scene: str, given: argparse.Namespace) -> MaterialsConfig:
    """Return the shipped recipe for one scene and method, its stages times `given.scale`."""
    kind, surface = ON_MESHES.get(method, (method, "none"))
    keys = [
        f"method={kind}",
        f"surface.init={surface}",
        f"source.path=toybox:{scene}",
        f"source.size={given.size}",
        f"source.views={given.views}",
    ]
    keys += [f"cloud.count={given.count}", f"seed={given.seed}"]
    stages = load_materials(overrides=keys).stages
    steps = {name: round(getattr(stages, name).steps * given.scale) for name in type(stages).model_fields}
    keys += [f"stages.{name}.steps={count}" for name, count in steps.items()]
    return load_materials(overrides=[*keys, *given.set])


def train(config: MaterialsConfig, start: Start) -> tuple[RadianceToPbr, float]:
    """Return the trained system and the CPU seconds it took."""
    system, began = make(config, start), time.process_time()
    while not system.is_finished:
        system.advance(start.training)
    return system, time.process_time() - began


def line(row: Row) -> str:
    """Return a row of the table as text."""
    cells = []
    for name, form in COLUMNS.items():
        value, width = row.numbers.get(name), int(form.split(".")[0])
        cells.append(f"{value:{form}}" if value is not None else "-".rjust(width))
    return f"{row.scene:9} {row.method:12} {' '.join(cells)} {row.cpu_s:7.0f}"


def header() -> str:
    """Return the first line of the table."""
    widths = [int(form.split(".")[0]) for form in COLUMNS.values()]
    cells = [title.rjust(width) for title, width in zip(TITLES, widths, strict=True)]
    return f"{'scene':9} {'method':12} {' '.join(cells)} {'CPU s':>7}"


def bench(given: argparse.Namespace) -> None:
    """Train and measure everything that is not there yet, printing each row; pages are written after every scene."""
    rows: list[Row] = []
    pictures: dict[str, dict[str, Tensor]] = {}
    for scene in given.scenes.split(","):
        start = open_source(recipe("progressive", scene, given), given.cache)
        for method in (*given.methods.split(","), "known"):
            row, shown = one(scene, method, start, given)
            rows.append(row)
            pictures[f"{scene}/{method}"] = shown
            print(line(row), flush=True)
        if given.docs:
            write_docs(given.docs, "\n".join([header(), *map(line, rows)]), record(given, rows), pictures)


def one(scene: str, method: str, start: Start, given: argparse.Namespace) -> tuple[Row, dict[str, Tensor]]:
    """Return a row and its pictures, read from its file or made and kept."""
    file = row_file(given.rows, scene, method, given)
    if file is not None and file.is_file():
        state = torch.load(file, weights_only=True)
        return Row(**state["row"]), state["pictures"]
    views = start.held_out or start.training
    if method == "known":
        row, pictures = known(scene, views)
    else:
        config = recipe(method, scene, given)
        system, seconds = train(config, open_source(config, given.cache) if method in ON_MESHES else start)
        measured = measure(system, views)
        numbers = measured.numbers | split_progress(scene, measured, views)
        row, pictures = Row(scene, method, numbers, seconds), pictures_of(measured, views)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"row": asdict(row), "pictures": pictures}, file)
    return row, pictures


def record(given: argparse.Namespace, rows: list[Row]) -> str:
    """Return the settings and all rows as JSON."""
    places = ("rows", "docs", "cache")
    settings = {name: value for name, value in vars(given).items() if name not in places}
    where = {"processor": processor(), "threads": threads()}
    return json.dumps({**settings, **where, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"


def main() -> None:
    """Run the benchmark and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", default=",".join(SCENES))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the steps of all stages")
    for name, value in (("size", 64), ("views", 24), ("count", 3000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="further keys of the recipe")
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--rows", type=Path, help="folder of finished rows")
    parser.add_argument("--docs", type=Path, help="folder for the table, the figures and the pictures")
    parser.add_argument(
        "--quick", action="store_true", help="small pictures and few steps: some 35 CPU seconds a scene"
    )
    given = parser.parse_args()
    if given.quick:
        given.size, given.views, given.count, given.set = 32, 24, 900, [*QUICK, *given.set]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(f"{given.views} views of {given.size} px, {given.count} Gaussians, steps x {given.scale:g}; {processor()}")
    print(header(), flush=True)
    bench(given)


if __name__ == "__main__":
    main()
