"""Is training stable? Two balls from an exact teacher, once a seed: does every training end with both?

    python benchmarks/generators_balls.py --seeds 6 --out balls.json

Prints overlap of outlines and squared error of each prompt. Seeds that `--out` holds already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sds3d.export.atomic import write_bytes
from systems.generator_balls import BALL_STEPS, ball_core, ball_recipe, ball_results

ENOUGH, LOST = 0.95, 0.5
"""Overlap that counts as learnt, and below which a ball counts as lost."""


def train(seed: int) -> dict[str, Any]:
    """Return the results of one training: for each prompt overlap and error, the least overlap on the way, CPU seconds."""
    core, start = ball_core(ball_recipe(seed)), time.process_time()
    least = 1.0
    for step in range(BALL_STEPS):
        core.step()
        if step % 10 == 9:
            least = min(least, *(row["overlap"] for row in ball_results(core).values()))
    seconds = time.process_time() - start
    return {"seed": seed, "prompts": ball_results(core), "least_on_the_way": least, "cpu_seconds": round(seconds, 1)}


def main() -> None:
    """Train all seeds that are missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--out", type=Path, default=Path("balls.json"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = json.loads(given.out.read_text()) if given.out.is_file() else []
    for seed in range(given.seeds):
        if all(row["seed"] != seed for row in rows):
            rows.append(train(seed))
            write_bytes(given.out, json.dumps(rows, indent=1).encode())
    good = kept = 0
    for row in rows:
        overlaps = [one["overlap"] for one in row["prompts"].values()]
        good, kept = good + (min(overlaps) >= ENOUGH), kept + (min(overlaps) >= LOST)
        fine = ", ".join(f"{one['fine_overlap']:.2f}" for one in row["prompts"].values())
        text = ", ".join(f"{overlap:.2f}" for overlap in overlaps)
        print(f"seed {row['seed']}: overlap {text} (at twice the resolution {fine}), {row['cpu_seconds']:.0f} CPU s")
    print(f"{kept} of {len(rows)} trainings ended with both balls, {good} of them with overlaps of at least {ENOUGH}")


if __name__ == "__main__":
    main()
