"""Generator recipes: shipped files load, survive being written, and mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config.generator import FlowRecipe, GeneratorRecipe, PredictionWarning
from sds3d.config.generator_load import (
    dump_generator_recipe,
    generator_recipe_files,
    list_generator_recipes,
    load_generator_recipe,
)
from sds3d.config.shipped import recipe_files
from sds3d.errors import ConfigError


def test_shipped_recipes_are_there_and_say_who_they_are() -> None:
    found = {recipe.name: recipe for _, recipe in list_generator_recipes()}
    assert {"triplaneturbo", "triplaneturbo-tiny", "swiftbrush", "dmd2", "sid", "mdt-dist"} <= found.keys()
    assert found.keys() == generator_recipe_files().keys()
    assert all(recipe.paper and recipe.arxiv and recipe.title for recipe in found.values())
    assert not found.keys() & recipe_files().keys()  # those make one asset


@pytest.mark.parametrize("name", sorted(generator_recipe_files()))
def test_a_recipe_written_and_read_is_the_same(name: str, tmp_path: Path) -> None:
    recipe = load_generator_recipe(name)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_generator_recipe(recipe), encoding="utf-8")
    assert load_generator_recipe(path) == recipe


def test_the_two_switches_of_the_papers() -> None:
    prd, dmd, swift = (load_generator_recipe(name) for name in ("triplaneturbo", "dmd2", "swiftbrush"))
    assert isinstance(prd, GeneratorRecipe) and isinstance(dmd, GeneratorRecipe) and isinstance(swift, GeneratorRecipe)
    assert (prd.trains, prd.fake.kind, prd.turns) == ("all", "none", 4)
    assert (dmd.trains, dmd.fake.kind, dmd.fake.steps) == ("one", "adapter", 5)
    assert (swift.turns, swift.fake.scale_like_teacher, swift.fake.dropout) == (1, True, 0.1)


def test_overrides_reach_into_lists() -> None:
    recipe = load_generator_recipe("triplaneturbo", ["teachers.1.weight=0", "training.steps=7", "views.0.size=64"])
    assert isinstance(recipe, GeneratorRecipe)
    assert recipe.teachers[1].weight.values == (0.0,) and recipe.teachers[0].weight.values == (1.0,)
    assert (recipe.training.steps, recipe.views[0].size, recipe.views[1].size) == (7, 64, 128)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.steps=3", "Did you mean"),
        ("teachers.5.weight=1", "There is no entry 5: the list has 1"),
        ("network.kind=image", "'views' do not suit"),
        ("fake.kind=adapter", "the teachers' methods use none"),
        ("turns=0", "turns"),
        ("optimiser.betas=[0.9]", "needs 2 numbers"),
        ("views.0.kind=identity", "'views' do not suit"),
    ],
)
def test_mistakes_are_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_generator_recipe("triplaneturbo-tiny", [override])


def test_distillation_without_matching_is_refused() -> None:
    with pytest.raises(ConfigError, match="alone grows without bound"):
        load_generator_recipe("mdt-dist", ["matching_weight=0"])
    assert isinstance(load_generator_recipe("mdt-dist"), FlowRecipe)


def test_noise_prediction_from_nothing_is_warned_about() -> None:
    with pytest.warns(PredictionWarning, match=r"14\.6"):
        load_generator_recipe("triplaneturbo-tiny", ["network.prediction=epsilon"])


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'swiftbrush'"):
        load_generator_recipe("swiftbrus")
