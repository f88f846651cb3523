"""How good is the bundled prior? Its own samples of held-out pairs before the judge, and what wrong conditions cost.

    python benchmarks/prior.py [--prior FOLDER] [--out docs/prior] [--log FOLDER/diffusion.jsonl]

Writes figures.json, samples.png and, with --log, loss.png to --out, and prints the figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


NAMES = ("loss", "val", "val_shuffled_text", "val_shuffled_camera")


def draw_curve(rows: list[dict[str, Any]], path: Path, names: tuple[str, ...] = NAMES) -> None:
    """Write the curves of a training log as a picture: losses in training, in validation, and with wrong conditions."""
    from math import log

    from PIL import Image, ImageDraw

    width, height, margin = 900, 420, 50
    picture = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(picture)
    lines = dict(zip(names, ("grey", "black", "blue", "red", "green"), strict=False))
    values = [log(row[name]) for row in rows for name in lines if name in row]
    low, high, last = min(values), max(values), rows[-1]["step"]
    for number, (name, color) in enumerate(lines.items()):
        points = [
            (
                margin + (width - 2 * margin) * row["step"] / last,
                height - margin - (height - 2 * margin) * (log(row[name]) - low) / (high - low),
            )
            for row in rows
            if name in row
        ]
        pen.line(points, fill=color, width=2)
        pen.text((width - 220, 20 + 16 * number), f"{name}: {[r[name] for r in rows if name in r][-1]:.4f}", fill=color)
    pen.text((margin, height - 30), f"0 to {last} steps; v-loss, logarithmic", fill="black")
    picture.save(path)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prior", type=Path, default=ROOT / "assets" / "priors" / "toybox")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "prior")
    parser.add_argument("--log", type=Path, help="training log to draw")
    parser.add_argument("--scale", type=float, default=4.0, help="classifier-free guidance of the samples")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import numpy as np
    import torch

    from sds3d.export.sheet import write_contact_sheet
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior
    from sds3d.toybox.autoencoder import reconstruction_psnr
    from sds3d.toybox.captions import Description, phrase
    from sds3d.toybox.dataset import SetConfig, load_set, make_set
    from sds3d.toybox.evaluate import VIEWS, draw_held_out, score_held_out, wrong_condition_losses
    from sds3d.toybox.judge import load_judge
    from sds3d.toybox.palette import held_out_pairs
    from sds3d.toybox.training import load_autoencoder

    prior = LatentDiffusionPrior.from_folder(options.prior)
    images = draw_held_out(prior, options.scale, seed=options.seed)
    figures: dict[str, Any] = {"samples": score_held_out(images, load_judge())}
    unseen = SetConfig(objects=240, views=4, seed=300)  # training pairs, specimens never trained on
    folder = ROOT / "outputs" / "prior-benchmark"
    list(make_set(folder, unseen))
    pixels, records = load_set(folder, unseen)
    figures["autoencoder_psnr_db"] = reconstruction_psnr(load_autoencoder(options.prior), pixels[::2], 0)
    figures["losses"] = wrong_condition_losses(prior, pixels, records)
    losses = figures["losses"]
    figures["shuffled_camera_over_right"] = losses["val_shuffled_camera"] / losses["val"]
    options.out.mkdir(parents=True, exist_ok=True)
    labels = [phrase(Description(noun=n, color=c)) if v == 0 else "" for n, c in held_out_pairs() for v in range(VIEWS)]
    write_contact_sheet(options.out / "samples.png", np.asarray(images), columns=2 * VIEWS, labels=labels)
    if options.log:
        draw_curve([json.loads(line) for line in options.log.read_text().splitlines()], options.out / "loss.png")
    (options.out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures, indent=2))
    print(f"torch {torch.__version__}; wrote {options.out}")


if __name__ == "__main__":
    main()
