"""Guidance scales of a generator's teacher and of its fake score: the same in a step, drawn anew in the next (G30)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.config.generator import GeneratorRecipe
from sds3d.config.generator_load import load_generator_recipe
from sds3d.generators.toys import RING_TEXT, ring_prior
from sds3d.guidance.branches import Draws
from sds3d.guidance.guide import Guidance
from sds3d.priors.base import Query
from sds3d.prompts import Prompt
from systems.generator_rules import turn_guides, windowed

STEPS = 40


def recipe(fake: dict[str, Any] | None = None, **teacher: Any) -> GeneratorRecipe:
    guidance = {"method": "vsd", "guidance_scale": 4.5, "weight": "uniform"}
    return GeneratorRecipe.model_validate(
        {
            "network": {"kind": "image"},
            "views": ({"kind": "identity"},),
            "teachers": ({"guidance": guidance, **teacher},),
            "fake": {"kind": "adapter", **(fake or {})},
            "cameras": {"views": 1},
            "training": {"steps": STEPS},
        }
    )


def says(prompted: float, bare: float) -> Any:
    """Return a network that answers one number with the prompt and another without."""

    def predict(queries: Sequence[Query]) -> list[Tensor]:
        return [
            torch.where(query.text[:, :, :1, None] == 0.0, prompted, bare).expand_as(query.z_t) for query in queries
        ]

    return predict


def guide_of(settings: GeneratorRecipe, teacher: Any, fake: Any) -> Guidance:
    prior = ring_prior()  # its embeddings: 0 for the prompt, 1 for none
    assert [float(prior.text([text])) for text in (RING_TEXT, "")] == [0.0, 1.0]
    prior.predict = teacher  # type: ignore[method-assign]
    return turn_guides(settings, [prior], [fake])[0][0]


def residual(guide: Guidance, step: int) -> float:
    from sds3d.cameras import turntable

    draws = Draws(t=torch.tensor([500]), epsilon=torch.zeros(1, 2, 1, 1), uniform=torch.zeros(1))
    prompt = Prompt(text=RING_TEXT, view_dependent=False)
    gradient, _ = guide.gradient(torch.zeros(1, 2, 1, 1), prompt, turntable(1, 8), step, draws)
    return float(gradient[0, 0])


def scales(settings: GeneratorRecipe) -> tuple[list[float], list[float]]:
    """Return what the teacher's and the fake network's guidance multiply y - u with, step by step."""
    real = guide_of(settings, says(1.0, 0.0), says(0.0, 0.0))
    fake = guide_of(settings, says(0.0, 0.0), says(1.0, 0.0))
    return [residual(real, k) for k in range(STEPS)], [-residual(fake, k) for k in range(STEPS)]


def test_both_networks_get_the_scale_that_was_drawn_for_the_step() -> None:
    both = {"scale_like_teacher": True}
    real, fake = scales(recipe(both, random_scale=(2.0, 6.0)))
    assert real == fake and len(set(real)) == STEPS
    assert all(2.0 <= scale <= 6.0 for scale in real)
    assert min(real) < 3.0 and max(real) > 5.0 and sum(real) / STEPS == pytest.approx(4.0, abs=0.6)
    assert scales(recipe(both, random_scale=(2.0, 6.0)))[0] == real  # a resumed run draws the same


def test_without_it_scales_are_what_the_recipe_says() -> None:
    assert scales(recipe({"scale_like_teacher": True})) == ([4.5] * STEPS, [4.5] * STEPS)
    assert scales(recipe({"scale": 2.0})) == ([4.5] * STEPS, [2.0] * STEPS)
    assert scales(recipe()) == ([4.5] * STEPS, [1.0] * STEPS)


def test_a_longer_run_begins_with_the_same_scales() -> None:
    short = recipe({"scale_like_teacher": True}, random_scale=(2.0, 6.0))
    longer = short.model_copy(update={"training": short.training.model_copy(update={"steps": 10 * STEPS})})
    guides = [guide_of(settings, says(1.0, 0.0), says(0.0, 0.0)) for settings in (short, longer)]
    assert [residual(guides[0], k) for k in range(STEPS)] == [residual(guides[1], k) for k in range(STEPS)]


def test_the_shipped_recipe_takes_a_range() -> None:
    made = load_generator_recipe("swiftbrush", ["teachers.0.random_scale=[2, 6]"])
    assert isinstance(made, GeneratorRecipe)
    assert made.teachers[0].random_scale == (2.0, 6.0) and made.fake.scale_like_teacher
    with pytest.raises(Exception, match="the smaller first"):
        load_generator_recipe("swiftbrush", ["teachers.0.random_scale=[6, 2]"])


def test_windows_leave_the_drawn_scale_alone() -> None:
    config = recipe().teachers[0].guidance
    assert windowed(config, "band", 1, 4).guidance_scale == config.guidance_scale
