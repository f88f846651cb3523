"""Make the judge of drawings: draw toybox objects with strokes, train the judge of pictures further on them, measure it.

    python benchmarks/line_judge.py --work work/line-judge [--out assets/judge] [--steps 700]

About five CPU minutes; a broken run continues from `--work`. It writes drawings.safetensors and drawings.json: accuracies on
drawings of specimens that training did not see, of the judge before and after; "held_out": pairs the prior never saw.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from renderers.sketch.toys import STYLES, DrawingsConfig, draw_set  # noqa: E402
from sds3d.toybox.judge import DRAWN, evaluate_judge, load_judge, save_judge, train_judge  # noqa: E402
from sds3d.toybox.loop import LoopConfig  # noqa: E402

TRAIN = DrawingsConfig(objects=720, views=3, seed=1000)
TESTS = {
    "validation": DrawingsConfig(objects=120, views=2, seed=2000, pairs="train"),
    "held_out": DrawingsConfig(objects=120, views=2, seed=3000, pairs="held-out"),
}
"""Specimens of other seeds than those of training; "held_out": pairs of noun and colour the prior never saw."""


def drawings(config: DrawingsConfig, work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return a set of drawings, kept in `work`."""
    path = work / f"drawings-{config.pairs}-{config.seed}-{config.objects}x{config.views}.npz"
    if not path.exists():
        images, records = draw_set(config)
        np.savez(path.with_suffix(".tmp.npz"), images=images, records=records)
        path.with_suffix(".tmp.npz").replace(path)
    found = np.load(path)
    return found["images"], found["records"]


def main() -> None:
    """Draw, train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", type=Path, required=True, help="folder of drawings and checkpoints")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "judge", help="folder of the judges")
    parser.add_argument("--steps", type=int, default=700, help="training steps of 64 drawings")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    began = time.process_time()
    before = load_judge()
    images, records = drawings(TRAIN, options.work)
    tests = {name: drawings(config, options.work) for name, config in TESTS.items()}
    print(f"{len(images)} drawings, {time.process_time() - began:.0f} CPU seconds", flush=True)
    loop = LoopConfig(
        steps=options.steps,
        learning_rate=1e-3,
        betas=(0.9, 0.98),
        cooldown=0.7,
        average_decay=0.99,
        checkpoint_every=50,
    )
    judge = train_judge(images, records, options.work, loop, seed=0, start=before)
    report: dict[str, object] = {
        "trained_on": len(images),
        "steps": options.steps,
        "chance": {"noun": 1 / 24, "color": 1 / 11},
    }
    for name, (test_images, test_records) in tests.items():
        report[name] = evaluate_judge(judge, test_images, test_records)
        report[f"{name}_before"] = evaluate_judge(before, test_images, test_records)
        views = TESTS[name].views
        style_of = np.arange(len(test_images)) // views % len(STYLES)
        for number, style in enumerate(STYLES):
            chosen = style_of == number
            report[f"{name}_{style}"] = evaluate_judge(judge, test_images[chosen], test_records[chosen])
    save_judge(judge, options.out, report, DRAWN)
    print(json.dumps(report, indent=2), f"\n{time.process_time() - began:.0f} CPU seconds")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
