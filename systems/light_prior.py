"""Train the bundled light-conditioned ControlNet: python -m systems.light_prior [--out FOLDER] [--work FOLDER] [--steps N].

Draws the toys (`systems.light_pictures`), encodes them and trains (`sds3d.toybox.light_training`); all of it resumes.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from sds3d.config.prior import BUNDLED
from sds3d.config.shipped import shipped
from sds3d.toybox.light_training import NAME, LightTrainingConfig, train_light
from systems.light_pictures import LightSetConfig, make_light_set

TRAIN = LightSetConfig()
VALIDATION = LightSetConfig(
    objects=48, views=2, seed=100, pairs="held-out", is_mixed=False,
    lights=("studio", "sunset", "overcast", "noon", "ring", "sky", "constant", "lamps"),
)  # fmt: skip
"""Pairs of noun and colour never trained on, in lights as they are; "lamps" is in no training picture."""


def main() -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=shipped("assets", "priors", NAME))
    parser.add_argument("--prior", type=Path, default=shipped("assets", "priors", BUNDLED))
    parser.add_argument("--work", type=Path, default=Path("outputs/prior/light"))
    parser.add_argument("--steps", type=int, default=LightTrainingConfig().steps)
    parser.add_argument("--objects", type=int, default=TRAIN.objects, help="toys to train on")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train = make_light_set(options.work, LightSetConfig(objects=options.objects))
    validation = make_light_set(options.work, VALIDATION)
    train_light(options.out, options.prior, options.work, train, validation, LightTrainingConfig(steps=options.steps))
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
