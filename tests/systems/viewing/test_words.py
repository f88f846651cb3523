from collections.abc import Callable

from sds3d.config import Recipe
from systems.viewing.words import about, escaped, schedules, table


def test_nothing_a_user_types_is_markup() -> None:
    text = escaped("{alert(1)} <script> [a](http://x) `code` **b** | \n# title \U0001f600")
    assert not set(text.replace("&#", "")) & set("{}<>[]`*|\n#")
    assert "&#123;alert(1)&#125; &#60;script&#62;" in text
    assert len(escaped("x" * 10_000)) == 400


def test_prompts_come_out_in_the_heading(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe("prompt.negative=ugly")
    assert about(recipe).startswith("**a red mug**\n\nNot: ugly\n\n| | |")
    assert "| method |" in about(recipe) and "gaussians" in about(recipe)


def test_a_table_rounds_numbers() -> None:
    assert table({"loss_value": 0.123456}).endswith("| loss value | 0.1235 |")


def test_schedules_are_read_at_the_step(make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(
        "guidance.t_max={clock: step, points: [[0, 0.9], [10, 0.5]]}",
        "regularisers.binary={clock: fraction, points: [[0, 0], [1, 2]]}",
    )
    found = schedules(recipe, 5, 10)
    assert abs(found["guidance.t_max"] - 0.7) < 1e-9 and found["regularisers.binary"] == 1.0
    assert "cameras.size" not in found  # does not change
    assert found["learning rate of means"] == recipe.optimiser.learning_rates["means"].at(5, 10)
