"""The motion stage of 4doodle with the clips of the toybox: a robot of strokes that waves, within the stated bounds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers.sketch import initialise
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import Strokes
from sds3d.config import load_recipe
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.points import points_on
from sds3d.metrics.moving import LEAST_ENERGY, MOST_DRIFT
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from systems.base import DistillationSystem
from systems.build import build_prior
from systems.movement import moving
from systems.moving_files import motion_metrics, times_of

STEPS = 24


def robot() -> Strokes:
    """Return short strokes all over a toy robot, in its colours."""
    mesh = mesh_from_toy(build(Description(noun="robot", color="red"), np.random.default_rng(3)))
    surface = points_on(mesh, 20_000, 5)
    places = torch.from_numpy(surface.positions).float()
    points = initialise.on_points(places, 96, torch.Generator().manual_seed(0), length=(0.12, 0.3))
    nearest = torch.cdist(points.mean(dim=1), places).argmin(dim=1)
    return Strokes.of(
        points, half_width=0.03, opacity=0.9, colour=torch.from_numpy(surface.colors).float()[nearest].clamp(0, 1)
    )


@pytest.mark.slow
def test_a_robot_lifts_its_arm_and_stays_a_robot() -> None:
    given = {"prompt.text": ("the prompt", "a red robot waving")}
    recipe = load_recipe("4doodle", ["tiny"], [f"training.steps={STEPS}"], given).plan()[1][1]
    asset = moving(SketchRenderer(robot(), recipe.renderer, steps=STEPS, seed=0), recipe, 0)
    system = DistillationSystem(recipe, build_prior(recipe, torch.device("cpu")), asset)
    optimiser = system.configure_optimizers()
    for step in range(STEPS):
        optimiser.zero_grad()
        for group in optimiser.param_groups:
            group["lr"] = system.learning_rates(step)[group["name"]]
        system.losses(step, "cpu")[0].backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    report = motion_metrics(asset, recipe)
    assert report["energy"] > LEAST_ENERGY and report["identity_drift"] < MOST_DRIFT and report["is_smooth"], report
    rest, points = asset.at().points[0].detach(), asset.at(times_of(recipe)).points.detach()
    assert torch.equal(points[0], rest)
    middle = rest[:, 2].median()
    arm = (rest[:, 1] > rest[:, 1].quantile(0.85)) & (rest[:, 2] < middle)  # the hanging hand on its left
    other = (rest[:, 1] < rest[:, 1].quantile(0.15)) & (rest[:, 2] < middle)
    lifts = [float((points[2:6, chosen, 2] - rest[chosen, 2]).mean()) for chosen in (arm, other, ~arm)]
    assert lifts[0] > max(lifts[1:]) + 0.005, lifts
