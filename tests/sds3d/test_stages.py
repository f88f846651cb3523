"""A recipe of several stages: how layers reach them, what is kept, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from sds3d.config import dump_recipe, load_recipe
from sds3d.config.load import capped
from sds3d.errors import ConfigError

TWO = """
name: two
title: Two stages
training: {steps: 100}
guidance: {method: vsd, score: {rank: 4}}
stages:
  rough:
    training: {steps: 30}
  fine:
    guidance: {method: sds, guidance_scale: 7}
    renderer: {count: 60}
"""


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Return the file of a recipe with two stages."""
    file = tmp_path / "two.yaml"
    file.write_text(TWO)
    return file


def test_a_stage_has_the_keys_of_the_whole_and_its_own(two: Path) -> None:
    recipe = load_recipe(two)
    (first, rough), (second, fine) = recipe.plan()
    assert (first, second) == ("rough", "fine")
    assert rough.guidance.method == "vsd" and rough.training.steps == 30 and rough.renderer.count == 4000
    assert fine.guidance.method == "sds" and fine.training.steps == 100 and fine.renderer.count == 60
    assert recipe.steps == 130
    assert not rough.stages and rough.name == "two", "a stage is a recipe of its own"


def test_a_recipe_without_stages_is_its_own_only_stage() -> None:
    recipe = load_recipe()
    assert recipe.plan() == [("", recipe)]


def test_overlays_and_overrides_hold_for_every_stage_unless_they_name_one(two: Path) -> None:
    recipe = load_recipe(two, ["tiny"], ["cameras.views=3", "stages.fine.training.steps=7"])
    (_, rough), (_, fine) = recipe.plan()
    assert rough.prior.path == fine.prior.path == "toybox"
    assert rough.cameras.views == fine.cameras.views == 3
    assert (rough.training.steps, fine.training.steps) == (40, 7)
    assert rough.renderer.count == fine.renderer.count == 500


def test_the_written_recipe_gives_the_same_stages_and_can_be_overridden(two: Path, tmp_path: Path) -> None:
    recipe = load_recipe(two, ["tiny"])
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe))
    assert load_recipe(file) == recipe
    assert [stage.training.steps for _, stage in load_recipe(file, [], ["training.steps=5"]).plan()] == [5, 5]


def test_capped_holds_for_every_stage(two: Path) -> None:
    assert [stage.training.steps for _, stage in capped(load_recipe(two), 40).plan()] == [30, 40]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.fine.training.stps=1", "Unknown key 'stages.fine.training.stps'"),
        ("stages.fine.training.steps=0", "'stages.fine.training.steps' is 0"),
        ("stages.Fine!.training.steps=1", "key=value"),
        ("stages=3", "each stage is a section"),
        ("stages.fine=3", "each stage is a section"),
        ("stages.fine.name=x", "Unknown key 'stages.fine.name'"),
    ],
)
def test_bad_stages_are_named(two: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("[", r"\[")):
        load_recipe(two, [], [override])


def test_for_renderer_names_kinds_that_exist(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("for_renderer: {gausians: {renderer: {count: 5}}}\n")
    with pytest.raises(ConfigError, match=r"'for_renderer.gausians' is no kind of renderer: .*gaussians"):
        load_recipe("quickstart", [overlay])


def test_another_renderer_takes_nothing_from_the_old_one() -> None:
    """Keys of the same name mean other things: 'init' is a cloud here and a solid there."""
    recipe = load_recipe("quickstart", [], ["renderer.kind=nerf", "renderer.hidden=8"])
    assert recipe.renderer.kind == "nerf" and recipe.renderer.init == "round" and recipe.renderer.hidden == 8
    assert not recipe.regularisers and set(recipe.optimiser.learning_rates) == set(recipe.renderer.PARAMETERS)
