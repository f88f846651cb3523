"""From a recipe to the guidance of every turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import ConfigError
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.guide import Guidance
from sds3d.priors.base import Prior
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from sds3d.guidance.guide import Predictor


def turn_guides(
    recipe: GeneratorRecipe, teachers: Sequence[Prior], predictors: Sequence[Predictor | None]
) -> list[list[Guidance]]:
    """Return for each turn the guidance of each teacher; turns share them unless they look at times of their own.

    predictors: what answers for the trained score, a teacher; it is not trained by guidance (`FakeTrainer` does that).
    """
    if len(teachers) != len(recipe.teachers):
        raise ConfigError(
            f"{len(recipe.teachers)} teachers are configured, but {len(teachers)} are given. Give each one."
        )

    def guides(turn: int) -> list[Guidance]:
        made = []
        for model, teacher, predictor in zip(teachers, recipe.teachers, predictors, strict=True):
            networks = {} if predictor is None else {"psi": predictor}
            config = windowed(teacher.guidance, recipe.window, turn, recipe.turns)
            made.append(Guidance(model, config, recipe.training.steps, networks))
        return made

    if recipe.window == "shared":
        shared = guides(0)
        return [shared] * recipe.turns
    return [guides(turn) for turn in range(recipe.turns)]


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
