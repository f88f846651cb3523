"""The quickstart league: twenty prompts, half of them pairs the prior never saw, through the command line itself.

    python benchmarks/quickstart.py --out outputs/league [--json FILE] [--jobs 1] [KEY=VALUE ...]

Every prompt is one `launch.py generate` in a process of its own, one seed each. The table shows, side by side, what the judge
says over eight turntable views (noun, colour, azimuth) and where the silhouette test ranks the prompt's own noun. A contact
sheet of all objects is written beside the runs. Finished prompts are kept, so a broken league continues.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean, median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sds3d.toybox.captions import article  # noqa: E402
from sds3d.toybox.palette import ASYMMETRIC, held_out_pairs, is_held_out  # noqa: E402

SEEN = (
    ("mug", "red"), ("car", "blue"), ("chair", "red"), ("mushroom", "orange"), ("rocket", "cyan"),
    ("house", "orange"), ("duck", "yellow"), ("robot", "purple"), ("tree", "green"), ("teapot", "pink"),
)  # fmt: skip
SHEET_DEG, SHEET_SIZE = (0, 48, 90, 180), 128
"""Azimuths shown in the contact sheet: front, three quarters, side, back."""
HELD_OUT_NOUNS = ("mug", "car", "bed", "table", "snowman", "lamp", "guitar", "castle", "airplane", "dog")


def prompts() -> list[tuple[str, str]]:
    """Return ten (noun, colour) pairs of the training set (no specimen of it) and ten that training never saw."""
    held = dict(held_out_pairs())
    assert not any(is_held_out(*pair) for pair in SEEN)
    return [*SEEN, *((noun, held[noun]) for noun in HELD_OUT_NOUNS)]


def run_one(noun: str, color: str, folder: Path, extra: list[str]) -> dict[str, Any]:
    """Generate one prompt (or reuse a finished run) and return its row."""
    path, prompt = folder / f"{color}-{noun}", f"{article(color)} {color} {noun}"
    info = path / "run.json"
    done = info.exists() and json.loads(info.read_text()).get("status") == "done"
    if not done:
        arguments = ["resume", str(path)] if info.exists() else ["generate", prompt, "--out", str(path), *extra]
        command = [sys.executable, str(ROOT / "launch.py"), *arguments]
        began = time.perf_counter()
        with (folder / f"{color}-{noun}.log").open("w") as log:
            subprocess.run(command, check=True, stdout=log, stderr=subprocess.STDOUT, env={**os.environ})
        (path / "wall.json").write_text(json.dumps({"seconds": time.perf_counter() - began}))
    verdict = json.loads((path / "metrics.json").read_text())["judge"]
    row = {"prompt": prompt, "held_out": is_held_out(noun, color), "noun": noun}
    row |= {k: verdict[k] for k in ("noun_accuracy", "color_accuracy", "azimuth_within_45", "silhouette_rank")}
    return row | {"silhouette_iou": verdict["silhouette_iou"], **json.loads((path / "wall.json").read_text())}


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the league's figures: means over prompts (azimuth over asymmetric nouns)."""
    turned = [row["azimuth_within_45"] for row in rows if row["noun"] in ASYMMETRIC]
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return {
        "noun_accuracy": mean(row["noun_accuracy"] for row in rows),
        "color_accuracy": mean(row["color_accuracy"] for row in rows),
        "azimuth_within_45": mean(turned) if turned else float("nan"),
        "own_silhouette_first": mean(row["silhouette_rank"] == 1 for row in rows),
        "median_seconds": median(row["seconds"] for row in rows),
        "peak_memory_gb": peak,
    }


def pictures_of(run: Path) -> list[Any]:
    """Return the frames of a run's turntable nearest to `SHEET_DEG`, at `SHEET_SIZE` pixels."""
    import av
    import numpy as np
    from PIL import Image

    with av.open(str(run / "export" / "turntable.mp4")) as film:
        frames = [frame.to_image() for frame in film.decode(video=0)]
    wanted = [frames[round(angle / 360 * len(frames)) % len(frames)] for angle in SHEET_DEG]
    return [np.asarray(frame.resize((SHEET_SIZE, SHEET_SIZE), Image.Resampling.LANCZOS)) for frame in wanted]


def write_sheet(rows: list[dict[str, Any]], folder: Path) -> Path:
    """Write one picture with four sides of every prompt's object, two prompts a row."""
    import numpy as np

    from sds3d.export.sheet import write_contact_sheet

    pictures, labels = [], []
    for row in rows:
        pictures += pictures_of(folder / row["prompt"].split(" ", 1)[1].replace(" ", "-"))
        first = row["prompt"].split(" ", 1)[1]
        labels += [first, *("held out" if row["held_out"] and k == 0 else "" for k in range(len(SHEET_DEG) - 1))]
    return write_contact_sheet(folder / "sheet.png", np.stack(pictures), 2 * len(SHEET_DEG), labels)


def main() -> None:
    """Run the league and print it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "outputs" / "league", help="folder of the runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--jobs", type=int, default=1, help="prompts at the same time (times are then not comparable)")
    parser.add_argument("--only", type=int, help="only every Nth prompt: a quick look")
    options, extra = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chosen = prompts()[:: options.only or 1]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(lambda pair: run_one(*pair, options.out, extra), chosen))
    from rich.console import Console
    from rich.table import Table

    table = Table("prompt", "held out", "noun", "colour", "azimuth", "outline rank", "outline IoU", "seconds")
    for row in rows:
        azimuth = "-" if row["azimuth_within_45"] is None else f"{row['azimuth_within_45']:.2f}"
        table.add_row(
            row["prompt"], "yes" if row["held_out"] else "", f"{row['noun_accuracy']:.2f}", f"{row['color_accuracy']:.2f}",
            azimuth, str(row["silhouette_rank"]), f"{row['silhouette_iou']:.2f}", f"{row['seconds']:.0f}",
        )  # fmt: skip
    figures = summary(rows)
    console = Console(width=120)
    console.print(table)
    for name, value in figures.items():
        console.print(f"{name:22s} {value:.3f}")
    if options.json:
        options.json.write_text(json.dumps({"summary": figures, "rows": rows}, indent=2) + "\n")
    console.print(f"Wrote {write_sheet(rows, options.out)}")


if __name__ == "__main__":
    main()
