"""Objects of one prompt in a batch: seen alike, and driven apart; the loop a generator needs not to collapse."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sds3d.config.generator import GeneratorRecipe
from sds3d.generators.toys import RING_TEXT, PointGenerator, ring_prior
from systems.generator_core import GeneratorCore, PromptList


def core(seeds: int, weight: float = 1000.0, prompts: tuple[str, ...] = (RING_TEXT,)) -> GeneratorCore:
    guidance = {"method": "sds", "guidance_scale": 1, "weight": "sds", "t_min": 0.02, "t_max": 0.98}
    data: dict[str, Any] = {
        "network": {"kind": "image"},
        "turns": 1,
        "views": ({"kind": "identity"},),
        "teachers": ({"guidance": guidance},),
        "cameras": {"views": 2},
        "training": {"steps": 10, "batch": 4},
        "optimiser": {"learning_rate": 1e-2},
        "variety": {"seeds": seeds, "weight": weight, "distance": 1.0},
    }
    draws, prior = torch.Generator().manual_seed(0), ring_prior()
    generator = PointGenerator(prior.levels, 2, 32, draws)
    return GeneratorCore(GeneratorRecipe.model_validate(data), generator, [prior], prior.text, PromptList(prompts))


def test_objects_of_a_prompt_stand_together_and_are_seen_alike() -> None:
    made = core(2, prompts=("a", "b", "c"))
    texts = [text for number in range(3) for text in made.prompts_of(number)]
    assert texts[0::2] == texts[1::2] and sorted(texts[0::2]) == ["a", "a", "b", "b", "c", "c"]
    cameras, colour = made.draw_cameras(4, torch.Generator().manual_seed(1))
    place = cameras.cam_to_world.view(2, 2, 2, 4, 4)  # prompts, seeds, views
    assert torch.equal(place[:, 0], place[:, 1]) and not torch.equal(place[0], place[1])
    assert torch.equal(colour.view(2, 2, 2, 3)[:, 0], colour.view(2, 2, 2, 3)[:, 1])


def test_one_seed_draws_what_it_always_drew() -> None:
    cameras, _ = core(1).draw_cameras(4, torch.Generator().manual_seed(1))
    assert len(cameras) == 8 and len(cameras.cam_to_world.unique(dim=0)) == 8


def test_without_the_term_points_collapse_and_with_it_they_do_not() -> None:
    spread = []
    for weight in (0.0, 300.0):
        made = core(4, weight)
        for _ in range(250):
            made.step()
        with torch.no_grad():
            noise = made.generator.noise(64, torch.Generator().manual_seed(2))
            spread.append(float(made.generator.predict_clean(noise, 999, torch.zeros(64, 1, 1)).std(dim=0).mean()))
    assert spread[0] < 0.2 < 0.5 < spread[1]


def test_seeds_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="must divide training"):
        GeneratorRecipe.model_validate({"variety": {"seeds": 3}, "training": {"batch": 4}})
