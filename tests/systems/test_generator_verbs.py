"""Assets without optimisation: which options go together, and what is said where a generator is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sds3d.config import load_recipe
from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import AssetError, ConfigError
from sds3d.generators.about import About, unknown_words, words_of
from sds3d.generators.weights import write_weights
from sds3d.preflight import check
from systems.generator_verbs import recipe_of


def small(path: Path, **values: object) -> Path:
    write_weights(
        path, About(recipe=GeneratorRecipe(name="mine", **values), base="base", steps=3), {"x": torch.zeros(1)}
    )
    return path


def test_options_that_name_a_generator_go_together(tmp_path: Path) -> None:
    path = small(tmp_path / "small.safetensors")
    assert recipe_of("quickstart", False, None) == ("quickstart", [])
    assert recipe_of("quickstart", True, None) == ("instant", [])
    assert recipe_of("mine", False, path) == ("instant", [f"renderer.weights={path}"])
    with pytest.raises(ConfigError, match=r"'small\.safetensors' was trained with 'mine'"):
        recipe_of("triplaneturbo-tiny", False, path)
    with pytest.raises(ConfigError, match="--recipe is 'magic3d', but --instant takes a generator"):
        recipe_of("magic3d", True, None)
    with pytest.raises(ConfigError, match="Give one of the two"):
        recipe_of("quickstart", True, path)
    with pytest.raises(AssetError, match=r"does not exist\. Train one with 'train'"):
        recipe_of("quickstart", False, tmp_path / "none.safetensors")


def test_what_cannot_make_objects_is_refused_before_anything_loads(tmp_path: Path) -> None:
    pictures = small(tmp_path / "pictures.safetensors", network={"kind": "image"}, views=[{"kind": "identity"}])
    recipe = load_recipe("instant", overrides=["prompt.text=a mug", f"renderer.weights={pictures}"])
    assert recipe.is_at_once and recipe.steps == 0
    with pytest.raises(ConfigError, match="makes pictures, not 3D objects"):
        check(recipe)
    with pytest.raises(ConfigError, match="nothing can come before or after it"):
        load_recipe("dreamfusion", overrides=["stages.first.renderer.kind=triplane"])


def test_words_a_generator_was_not_trained_on_are_named() -> None:
    words = words_of(["a red mug", "an orange Car."])
    assert words == ("a", "an", "car", "mug", "orange", "red")
    assert words_of(str(number) for number in range(400)) == ()
    about = About(recipe=GeneratorRecipe(name="mine"), base="", steps=1, words=words)
    assert unknown_words("A red car", about) == ""
    assert "not trained on 'teapot', so" in unknown_words("a red teapot", about)
    assert unknown_words("anything", About(recipe=about.recipe, base="", steps=1)) == ""
