"""What a trained generator is worth: the judge's verdict on pairs it never saw, diversity over seeds, seconds an asset.

    python benchmarks/generators.py --weights outputs/generators/mine/generator.safetensors --nouns apple snowman

Prints a table and writes JSON. For the other side, optimise the same prompts with 'generate' and compare metrics.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sds3d.cameras import turntable
from sds3d.generators.diversity import pairwise_distance
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.palette import NOUNS, held_out_pairs
from systems.generator_make import Maker, open_maker
from systems.metrics import verdict
from systems.pictures import draw

GREY = 0.5


def measure(maker: Maker, noun: str, colour: str, seeds: int) -> dict[str, Any]:
    """Return what the judge says of seed 0, the distance between seeds, and the median CPU seconds of making one."""
    prompt, pictures, seconds = phrase(Description(noun=noun, color=colour)), [], []
    cameras = turntable(4, 64)
    first: dict[str, Any] = {}
    for seed in range(seeds):
        start = time.process_time()
        renderer = maker.make(prompt, seed)
        seconds.append(time.process_time() - start)
        pictures.append(draw(renderer, cameras, GREY)[0])
        if seed == 0:
            first = verdict(renderer, prompt)
    distance = pairwise_distance(torch.stack(pictures)) if seeds > 1 else None
    kept = ("noun_accuracy", "color_accuracy", "azimuth_within_45", "silhouette_rank", "silhouette_iou")
    row = {"prompt": prompt, **{name: first.get(name) for name in kept}}
    return {**row, "distance_of_seeds": distance, "cpu_seconds": statistics.median(seconds)}


def main() -> None:
    """Measure all held-out pairs of the chosen nouns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--nouns", nargs="+", default=list(NOUNS), choices=NOUNS)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("generators.json"))
    given = parser.parse_args()
    maker = open_maker(given.weights, "cpu")
    rows = [measure(maker, noun, colour, given.seeds) for noun, colour in held_out_pairs() if noun in given.nouns]
    for row in rows:
        print(
            "  ".join(f"{name} {value:.3g}" if isinstance(value, float) else f"{value}" for name, value in row.items())
        )
    names = ("noun_accuracy", "color_accuracy", "distance_of_seeds", "cpu_seconds")
    means = {name: statistics.mean(float(row[name] or 0.0) for row in rows) for name in names}
    print("mean", means)
    given.out.write_text(json.dumps({"rows": rows, "mean": means}, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
