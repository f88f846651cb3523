"""From a recipe to the guidance of every turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sds3d.config.generator import GeneratorRecipe, TeacherConfig
from sds3d.errors import ConfigError
from sds3d.generators.fake import TRAINED, GuidedFake, drawn_scale, fake_scale
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.guide import Guidance
from sds3d.priors.base import Prior
from sds3d.schedule import Schedule
from systems.randomness import generator_for

if TYPE_CHECKING:
    from sds3d.guidance.guide import Predictor


def turn_guides(
    recipe: GeneratorRecipe, teachers: Sequence[Prior], predictors: Sequence[Predictor | None]
) -> list[list[Guidance]]:
    """Return for each turn the guidance of each teacher; turns share them unless they look at times of their own.

    predictors: what answers for the trained score, a teacher; it is not trained by guidance (`FakeTrainer` does that), and guided
    as `recipe.fake` says.
    """
    if len(teachers) != len(recipe.teachers):
        raise ConfigError(
            f"{len(recipe.teachers)} teachers are configured, but {len(teachers)} are given. Give each one."
        )

    def guides(turn: int) -> list[Guidance]:
        made = []
        for model, teacher, predictor in zip(teachers, recipe.teachers, predictors, strict=True):
            networks = {} if predictor is None else {TRAINED: predictor}
            config = windowed(scaled(teacher, recipe), recipe.window, turn, recipe.turns)
            guide = Guidance(model, config, recipe.training.steps, networks)
            if predictor is not None:
                guide.rule = GuidedFake(guide.rule, fake_scale(recipe.fake, config.guidance_scale))
            made.append(guide)
        return made

    if recipe.window == "shared":
        shared = guides(0)
        return [shared] * recipe.turns
    return [guides(turn) for turn in range(recipe.turns)]


def scaled(teacher: TeacherConfig, recipe: GeneratorRecipe) -> GuidanceConfig:
    """Return the teacher's method with a guidance scale drawn for every step, if it wants one; the same on all processes."""
    if teacher.random_scale is None:
        return teacher.guidance
    draws = generator_for(recipe.seed, "start", 0, stage=2)
    scale = drawn_scale(*teacher.random_scale, recipe.training.steps, draws)
    return teacher.guidance.model_copy(update={"guidance_scale": scale})


def windowed(config: GuidanceConfig, window: str, turn: int, turns: int) -> GuidanceConfig:
    """Return `config` with the times that turn `turn` of K looks at.

    "shared": as configured; "band": [(K - k - 1) / K, (K - k) / K]; "upper": [0, (K - k) / K], both cut to what the
    configuration's window can take at all. Source: options of theEricMa/TriplaneTurbo that are off in its recipe.
    """
    if window == "shared":
        return config
    high = (turns - turn) / turns
    low = (turns - turn - 1) / turns if window == "band" else 0.0
    lowest, highest = min(config.t_min.values), max(config.t_max.values)
    bounds = (min(max(low, lowest), highest), max(min(high, highest), lowest))
    return config.model_copy(update={"t_min": Schedule.constant(bounds[0]), "t_max": Schedule.constant(bounds[1])})
