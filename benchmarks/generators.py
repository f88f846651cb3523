"""What a trained generator is worth beside optimising each prompt: the judge's verdict, variety over seeds, CPU seconds an asset.

    python benchmarks/generators.py prompts prompts.jsonl --seeds 8
    python launch.py batch prompts.jsonl --instant --workers 1 --out outputs/instant
    python launch.py batch prompts.jsonl --workers 1 --out outputs/optimised
    python benchmarks/generators.py compare outputs/instant outputs/optimised

The first writes, for each noun of the bundled generator, the colour that the bundled prior never saw with it. The last prints a
row a folder and writes JSON. Seconds are those of the whole asset, files and verdict included, as the batch recorded them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sds3d.cameras import turntable
from sds3d.config.triplane import TriplaneConfig
from sds3d.generators.about import read_about
from sds3d.generators.diversity import pairwise_distance
from sds3d.run import RunFolder
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.palette import held_out_pairs
from systems.pictures import draw
from systems.text_to_3d import trained

GREY, VIEWS, SIZE = 0.5, 4, 64
SCORES = ("judge.noun_accuracy", "judge.color_accuracy", "judge.silhouette_iou")


def held_out(seeds: int) -> list[dict[str, Any]]:
    """Return lines of a prompts file: the pairs no model here was trained on, of the nouns the bundled generator knows."""
    words = read_about(TriplaneConfig().file).words
    texts = [phrase(Description(noun=noun, color=colour)) for noun, colour in held_out_pairs() if noun in words]
    return [{"prompt": text, "seed": seed} for text in texts for seed in range(seeds)]


def variety(folder: Path, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return the distance between seeds for each prompt that has several."""
    pictures = defaultdict(list)
    for row in rows:
        run = RunFolder(folder / row["folder"])
        renderer, _ = trained(run.read_recipe(), run)
        pictures[row["prompt"]].append(draw(renderer, turntable(VIEWS, SIZE), GREY)[0])
    return {prompt: pairwise_distance(torch.stack(each)) for prompt, each in pictures.items() if len(each) > 1}


def summary(folder: Path) -> dict[str, Any]:
    """Return the means over a batch, and its rows."""
    lines = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["status"] == "done"]
    distances = variety(folder, rows)
    means = {name.split(".")[1]: statistics.mean(row["scores"][name] for row in rows) for name in SCORES}
    return {
        "folder": folder.name,
        "assets": len(rows),
        "prompts": len({row["prompt"] for row in rows}),
        **means,
        "distance_of_seeds": statistics.mean(distances.values()) if distances else None,
        "least_distance": min(distances.values(), default=None),
        "cpu_s": statistics.median(row["cpu_s"] for row in rows),
        "distances": distances,
        "rows": [
            {"prompt": row["prompt"], "seed": row["seed"], "cpu_s": row["cpu_s"], **row["scores"]} for row in rows
        ],
    }


def compare(folders: list[Path], out: Path) -> None:
    """Print a row a folder, and how much less time the first takes than the last."""
    found = [summary(folder) for folder in folders]
    for each in found:
        shown = {name: value for name, value in each.items() if name not in ("rows", "distances")}
        print("  ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items()))
    ratio = found[-1]["cpu_s"] / found[0]["cpu_s"]
    print(f"{found[0]['folder']} takes {ratio:.1f} times less than {found[-1]['folder']}")
    out.write_text(json.dumps({"batches": found, "ratio": ratio}, indent=1), encoding="utf-8")


def main() -> None:
    """Write prompts, or compare batches."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    prompts = verbs.add_parser("prompts")
    prompts.add_argument("file", type=Path)
    prompts.add_argument("--seeds", type=int, default=8)
    prompts.set_defaults(verb="prompts")
    comparing = verbs.add_parser("compare")
    comparing.add_argument("folders", type=Path, nargs="+")
    comparing.add_argument("--out", type=Path, default=Path("generators.json"))
    comparing.set_defaults(verb="compare")
    given = parser.parse_args()
    if given.verb == "prompts":
        given.file.write_text("".join(json.dumps(line) + "\n" for line in held_out(given.seeds)), encoding="utf-8")
    else:
        compare(given.folders, given.out)


if __name__ == "__main__":
    main()
