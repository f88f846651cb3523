"""Distil toybox scenes with known materials and lights: python benchmarks/relighting.py [--scenes NAME,...]
[--methods NAME,...] [--scale SHARE] [--size PX] [--views N] [--count N] [--cache DIR] [--picture DIR] [--json FILE].

Three rows a scene: radiance_to_pbr ("progressive"), the same steps with the physical picture alone ("physics"), and with
baked colours alone ("radiance", which cannot be relit). The table shows views nobody trained on (PSNR in decibels, SSIM),
the same views under two lights nobody trained with, the error of normals in degrees, the mean errors of base colour (after
scaling by the median of each channel), roughness and metalness, the mean of the progress map, and CPU seconds of training.

The scenes are path-traced with shadows and one reflection between surfaces, which no method models: "mirror" and "bowl" are
made so that this matters.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py does
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sds3d.config.materials import MaterialsConfig, load_materials
from sds3d.datasets.scenes import SCENES
from sds3d.hardware import processor, threads
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_report import Measured, measure, write_picture
from systems.radiance_to_pbr_run import make
from systems.radiance_to_pbr_source import CACHE, Start, open_source

METHODS = ("progressive", "physics", "radiance")
COLUMNS = {
    "psnr": "8.2f",
    "ssim": "6.3f",
    "relit_psnr": "8.2f",
    "relit_ssim": "6.3f",
    "normal_deg": "7.1f",
    "albedo_l1": "7.3f",
    "roughness_l1": "6.3f",
    "metallic_l1": "6.3f",
    "progress": "8.3f",
}
TITLES = ("PSNR", "SSIM", "relit", "SSIM", "normal", "albedo", "rough", "metal", "progress")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    scene: str
    method: str
    numbers: dict[str, float | None]
    cpu_s: float


def recipe(method: str, scene: str, given: argparse.Namespace) -> MaterialsConfig:
    """Return the shipped recipe for one scene and method, its stages times `given.scale`."""
    keys = [
        f"method={method}",
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


def bench(given: argparse.Namespace) -> list[Row]:
    """Train and measure everything, printing each row when it is there."""
    rows: list[Row] = []
    for scene in given.scenes.split(","):
        start = open_source(recipe("progressive", scene, given), given.cache)
        for method in given.methods.split(","):
            system, seconds = train(recipe(method, scene, given), start)
            measured: Measured = measure(system, start.held_out or start.training)
            rows.append(Row(scene, method, measured.numbers, seconds))
            print(line(rows[-1]), flush=True)
            if given.picture:
                given.picture.mkdir(parents=True, exist_ok=True)
                write_picture(
                    given.picture / f"{scene}-{method}.png", measured, start.held_out or start.training, (0, 3)
                )
            if given.json:
                write_json(given, rows)
    return rows


def write_json(given: argparse.Namespace, rows: list[Row]) -> None:
    """Write the settings and all rows so far."""
    settings = {name: str(value) for name, value in vars(given).items()}
    record = {**settings, "processor": processor(), "threads": threads(), "rows": [asdict(row) for row in rows]}
    given.json.write_text(json.dumps(record, indent=1) + "\n")


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
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    print(f"{given.views} views of {given.size} px, {given.count} Gaussians, steps x {given.scale:g}; {processor()}")
    print(header(), flush=True)
    bench(given)


if __name__ == "__main__":
    main()
