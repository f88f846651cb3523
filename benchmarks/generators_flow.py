"""Few-step flow distillation on flows whose exact map is known: one-step errors of each objective beside the teacher's.

python benchmarks/generators_flow.py [--recipe mdt-dist] [KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from sds3d.config.generator import FlowRecipe
from sds3d.config.generator_load import load_generator_recipe
from sds3d.generators.flow import gaussian_velocity
from sds3d.generators.flow_training import AffineStudent, distil_flow, one_step_error

MEAN, STD = 2.0, 0.5


def teacher(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Return the velocity of the flow to N(MEAN, STD^2)."""
    return gaussian_velocity(x, t, MEAN, STD)


def data(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return samples of N(MEAN, STD^2)."""
    return MEAN + STD * torch.randn(count, 1, generator=generator)


def exact(noise: torch.Tensor) -> torch.Tensor:
    """Return where the flow takes noise."""
    return MEAN + STD * noise


def main() -> None:
    """Train a student with and without distillation and print its error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="mdt-dist")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_args()
    recipe = load_generator_recipe(given.recipe, given.overrides)
    if not isinstance(recipe, FlowRecipe):
        parser.error(f"'{given.recipe}' is no recipe for a flow.")
    print(f"teacher, one Euler step: {one_step_error(teacher, exact):.4f}")
    alone = {"distillation_weight": 0.0, "norm": "none", "decay": "none", "learning_rate": 3e-3}
    for changes in (alone, {}):
        own = recipe.model_copy(update=changes)
        draws = torch.Generator().manual_seed(recipe.seed)
        student, start = AffineStudent(32, draws), time.process_time()
        distil_flow(own, student, teacher, data, draws)
        error, seconds = one_step_error(student, exact), time.process_time() - start
        what = f"distillation weight {own.distillation_weight:g}, norm {own.norm}, decay {own.decay}"
        print(f"{what}: {error:.4f} ({seconds:.0f} CPU s)")


if __name__ == "__main__":
    main()
