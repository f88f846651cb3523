"""What stages of sketches are told, and that 4doodle draws as the recipe sketch does."""

from __future__ import annotations

import pytest

from sds3d.config import Recipe, load_recipe
from sds3d.config.recipe import Stage


@pytest.mark.parametrize("overlays", [(), ("tiny",)])
def test_the_structure_of_4doodle_is_the_recipe_sketch(overlays: tuple[str, ...]) -> None:
    """Key by key: what is tuned for one holds for the other."""
    given = {"prompt.text": ("the prompt", "a red robot")}
    (_, alone), (_, first) = (load_recipe(name, overlays, (), given).plan()[0] for name in ("sketch", "4doodle"))
    about = set(Recipe.model_fields) - set(Stage.model_fields)
    assert alone.model_dump(exclude=about) == first.model_dump(exclude=about)


def test_a_sketch_is_told_a_colour_only_where_the_bundled_prior_draws_it_in_colours() -> None:
    def told(*keys: str, name: str = "sketch") -> list[str]:
        recipe = load_recipe(name, ["tiny"], keys, {"prompt.text": ("the prompt", "a robot")})
        return [stage.prompt.text for _, stage in recipe.plan()]

    assert told() == ["a blue robot"] and told("seed=1") == ["a green robot"]
    assert told("renderer.colours=false") == told("prior.path=mvdream") == told(name="quickstart") == ["a robot"]
    recipe = load_recipe("sketch", ["tiny"], (), {"prompt.text": ("the prompt", "a red robot")})
    assert recipe.plan()[0][1] is recipe
