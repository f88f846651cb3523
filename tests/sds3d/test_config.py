"""Recipes: shipped files load, layers win in order, the resolved text reproduces the run, errors name the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel

from sds3d.config import GaussiansConfig, Recipe, dump_recipe, list_recipes, load_recipe, plain_yaml
from sds3d.config.explain import keys_of
from sds3d.config.load import capped
from sds3d.config.schema import all_paths, field_at, sections_of
from sds3d.config.shipped import overlay_files, recipe_files
from sds3d.errors import ConfigError
from sds3d.schedule import Schedule


def problem(*overrides: str, **arguments: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_recipe(overrides=overrides, **arguments)
    assert "\n" not in str(caught.value)
    return caught.value


def test_every_shipped_recipe_loads_with_every_shipped_overlay() -> None:
    assert {"tiny", "draft", "high", "lowmem"} <= set(overlay_files())
    for name, file in recipe_files().items():
        assert load_recipe(name).name == name == file.stem
        for overlay in overlay_files():
            assert load_recipe(name, [overlay]).name == name


def test_overlays_change_only_keys_the_schema_has() -> None:
    paths = set(all_paths(Recipe))
    for file in overlay_files().values():
        data = plain_yaml.read(file)
        special = [*data.pop("for_renderer", {}).values(), data.pop("for_motion", {}), data.pop("for_conditions", {})]
        pending = [("", section) for section in (*special, data)]
        while pending:
            prefix, section = pending.pop()
            for key, value in section.items():
                assert prefix + key in paths, f"{file.name}: {prefix + key}"
                if isinstance(value, dict) and key != "learning_rates":  # its keys are those of the renderer
                    pending.append((f"{prefix}{key}.", value))


def test_shipped_yaml_means_the_same_to_a_foreign_reader() -> None:
    """A YAML 1.1 reader may read 1e-15 as text, but no key may turn into a truth value or a time."""
    for file in [*recipe_files().values(), *overlay_files().values()]:
        foreign, own = yaml.safe_load(file.read_text()), plain_yaml.read(file)
        foreign.get("optimiser", {}).pop("eps", None)
        own.get("optimiser", {}).pop("eps", None)
        assert foreign == own, file.name


def test_later_layers_win() -> None:
    plain = load_recipe("quickstart")
    tiny = load_recipe("quickstart", ["tiny"])
    assert tiny.training.steps < plain.training.steps
    assert tiny.guidance == plain.guidance
    both = load_recipe("quickstart", ["draft", "tiny"])
    assert both.training.steps == tiny.training.steps
    assert (
        load_recipe("quickstart", ["tiny", "draft"]).training.steps
        == load_recipe("quickstart", ["draft"]).training.steps
    )
    typed = load_recipe("quickstart", ["tiny"], ["training.steps=7", "seed=3"], {"seed": ("--seed", 4)})
    assert (typed.training.steps, typed.seed) == (7, 4)
    assert load_recipe(overrides=["training.steps=7", "training.steps=8"]).training.steps == 8


def test_recipe_and_overlay_files(tmp_path: Path) -> None:
    file, overlay = tmp_path / "mine.yaml", tmp_path / "more.yaml"
    file.write_text("name: mine\ntitle: My own\ntraining: {steps: 5}\n")
    overlay.write_text("training: {preview_every: 2}\n")
    recipe = load_recipe(str(file), [str(overlay)])
    assert (recipe.name, recipe.training.steps, recipe.training.preview_every) == ("mine", 5, 2)


def test_schedules_and_lists_are_replaced_not_merged() -> None:
    text = "{clock: step, points: [[0, 1], [9, 0.5]], interpolation: step}"
    recipe = load_recipe(overrides=[f"guidance.t_max={text}", "export.formats=[ply]"])
    assert recipe.guidance.t_max == Schedule(clock="step", points=((0, 1), (9, 0.5)), interpolation="step")
    assert recipe.export.formats == ("ply",)
    assert load_recipe(overrides=["guidance.t_max=0.9"]).guidance.t_max == Schedule.constant(0.9)


def test_one_learning_rate_can_be_changed_alone(tmp_path: Path) -> None:
    file = tmp_path / "short.yaml"
    file.write_text("name: short\ntitle: Short\noptimiser: {learning_rates: {sh0: 0.5}}\n")
    rates = load_recipe(file).optimiser.learning_rates
    assert rates == {**GaussiansConfig.LEARNING_RATES, "sh0": Schedule.constant(0.5)}


def test_switching_the_method_drops_keys_only_the_old_one_has() -> None:
    assert load_recipe().guidance.method == "mvdream-recon"
    recipe = load_recipe(overrides=["guidance.method=sds"])
    assert recipe.guidance.method == "sds" and not hasattr(recipe.guidance, "rescale")
    assert recipe.guidance.guidance_scale == load_recipe().guidance.guidance_scale
    # ... but a key the user typed for the other method is an error, not lost
    assert problem("guidance.method=sds", "guidance.rescale=0.3").path == "guidance.rescale"
    assert problem("guidance.rescale=0.3", "guidance.method=sds").path == "guidance.rescale"


@pytest.mark.parametrize("name", sorted(recipe_files()))
@pytest.mark.parametrize(
    "prompt", ["a red mug", "no", "1e3", "0x10", "12:30", "2026-11-22", "ein Häuschen: #1 'x' \"y\"", "~", "- a"]
)
def test_resolved_text_alone_gives_the_same_recipe(name: str, prompt: str, tmp_path: Path) -> None:
    recipe = load_recipe(name, ["tiny"], ["optimiser.eps=1e-12"], {"prompt.text": ("the prompt", prompt)})
    file = tmp_path / "recipe.yaml"
    file.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(file) == recipe
    assert load_recipe(file).prompt.text == prompt


def test_resolved_recipe_states_every_key() -> None:
    stated = plain_yaml.parse(dump_recipe(load_recipe()), "the dump")
    for key in keys_of(load_recipe()):
        section: Any = stated
        for part in key.path.split("."):
            if not key.path.startswith("regularisers"):
                section = section[part]


def test_relative_prior_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_recipe(overrides=["prior.path=models/sd15"]).prior.path == str(tmp_path / "models" / "sd15")
    assert load_recipe().prior.path == "toybox"


def test_capped() -> None:
    recipe = load_recipe()
    assert capped(recipe, 3).training.steps == 3
    assert capped(recipe, None) == recipe and capped(recipe, 10**6) == recipe


@pytest.mark.parametrize(
    ("override", "path", "message"),
    [
        ("training.stepz=3", "training.stepz", "Unknown key 'training.stepz'. Did you mean 'training.steps'?"),
        ("steps=3", "steps", "Unknown key 'steps'. Did you mean 'training.steps'"),
        ("guidance.scale=7", "guidance.scale", "'guidance.guidance_scale'"),
        ("guidance.t_max.pointz=3", "guidance.t_max.pointz", "'guidance.t_max.points'"),
        ("regularisers.opacty=1", "regularisers.opacty", "In 'regularisers' there is 'opacity'"),
        ("optimiser.learning_rates.mens=1", "optimiser.learning_rates.mens", "there is 'means'"),
        (
            "training.steps=many",
            "training.steps",
            "'training.steps' is 'many', but allowed is whole number in [1, 1000000]",
        ),
        ("training.steps=1.5", "training.steps", "whole number"),
        ("training.steps=true", "training.steps", "is 'true', but allowed is whole number"),
        ("training.steps=0", "training.steps", "is 0, which is out of range: allowed is whole number in [1, 1000000]"),
        ("seed=-1", "seed", "is -1, which is out of range: allowed is whole number in [0, 4294967295]"),
        ("renderer.init_opacity=1", "renderer.init_opacity", "allowed is number in (0, 1)"),
        ("guidance.t_max=2", "guidance.t_max", "the value 2 is out of range: allowed is [0, 1]"),
        ("guidance.t_max=abc", "guidance.t_max", "a number, or {clock: step|fraction"),
        ("guidance.guidance_scale=.nan", "guidance.guidance_scale", "finite"),
        ("cameras.fov_deg=.inf", "cameras.fov_deg", "out of range"),
        ("guidance.t_min=0.99", "guidance", "the time window is empty"),
        (
            "guidance.method=sdss",
            "guidance.method",
            "'guidance.method' is 'sdss', but allowed is 'sds', 'sjc', ",
        ),
        ("renderer.backend=cuda", "renderer.backend", "allowed is 'auto', 'reference', 'cpu' or 'gsplat'"),
        ("export.formats=[ply,fbx]", "export.formats[1]", "'fbx', but allowed is 'ply', 'spz', 'splat', 'splat_glb', "),
        ("renderer.init=shel", "renderer.init", "a start is 'shell', or a file that ends in .ply, .spz"),
        ("renderer.density.mode=grow", "renderer.density.mode", "'off', 'relocate', 'default' or 'mcmc'"),
        ("cameras.distance=[3,2]", "cameras.distance", "a range is [low, high] with low <= high, got [3, 2]"),
        ("cameras.distance=[3,99]", "cameras.distance[1]", "is 99, which is out of range"),
        ("cameras.distance=3", "cameras.distance", "[number, number] in [1.2, 20]"),
        ("optimiser.betas=[0.9]", "optimiser.betas[1]", "field required"),
        ("renderer.density.start=0.99", "renderer.density", "start must be <= stop"),
        ("training=3", "training", "is a section. Set a key in it, for example 'training.steps=...'"),
        ("seed.x=3", "seed", "holds a value (0), not a section, so 'seed.x' cannot be set"),
        ("prompt.text=42", "prompt.text", "is 42, but allowed is text"),
        ("prompt.words.templates.sid=a", "prompt.words.templates.sid", "'side', 'front', 'back' or 'overhead'"),
        ("cite=[dreamfuson]", "cite", "Did you mean 'dreamfusion'"),
        ("name=A b", "name", "small letters"),
    ],
)
def test_errors_name_the_key_what_is_allowed_and_where_it_was_written(override: str, path: str, message: str) -> None:
    error = problem(override)
    assert message in str(error)
    assert error.path == path
    assert f"[override '{override}']" in str(error)


def test_a_misspelt_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\ntitle: My own\ntrainning: {steps: 5}\n")
    error = problem(recipe=file)
    assert "Unknown key 'trainning'. Did you mean 'training'?" in str(error) and "mine.yaml" in str(error)


def test_a_missing_key_says_what_it_means(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("name: mine\n")
    assert "The key 'title' is missing (one line: what the recipe makes and how)" in str(problem(recipe=file))


@pytest.mark.parametrize("text", ["red", "=3", "a..b=3", ".a=3", "a b=3", "Training.steps=3"])
def test_malformed_overrides(text: str) -> None:
    assert "is not of the form key=value" in str(problem(text))


def test_nearest_names() -> None:
    assert "Unknown recipe 'quikstart'. Did you mean 'quickstart'" in str(problem(recipe="quikstart"))
    assert "Unknown overlay 'tinny'. Did you mean 'tiny'?" in str(problem(overlays=["tinny"]))
    assert "The recipe file 'no/such.yaml' does not exist" in str(problem(recipe="no/such.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\n", "not valid YAML: line 2, column 1"),
        (b"- a\n", "holds a list, but 'key: value' lines are needed"),
        (b"a: 1\na: 2\n", "the key 'a' occurs twice"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "not UTF-8"),
        (b"1: 2\n", "The key 1 is not text"),
        (b"[" * 1200, "not valid YAML"),
    ],
)
def test_broken_files(content: bytes, message: str, tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert message in str(problem(recipe=file))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("off", "off"),
        ("true", True),
        ("1e-3", 1e-3),
        ("1.", 1.0),
        (".5", 0.5),
        ("12:30", "12:30"),
        ("010", 10),
        ("2026-11-22", "2026-11-22"),
        ("null", None),
        ("", None),
        ("-7", -7),
        ("1_000", "1_000"),
        ("{a: [1, 2]}", {"a": [1, 2]}),
    ],
)
def test_yaml_scalars(text: str, value: Any) -> None:
    read = plain_yaml.parse(text, "the text")
    assert read == value and type(read) is type(value)
    assert plain_yaml.parse(plain_yaml.write({"x": value}), "the text") == {"x": value}


def test_every_key_is_described_and_every_number_is_bounded() -> None:
    def bounded(path: str) -> bool:
        field = field_at(Recipe, path.split("."))
        assert field is not None
        kinds = {field.annotation, *get_args(field.annotation)}
        return not kinds & {int, float} or bool(field.metadata)

    for path in all_paths(Recipe):
        field = field_at(Recipe, path.split("."))
        assert field is not None and (field.description or sections_of(field) or path.endswith("guidance.method")), path
        assert bounded(path), path


def test_configurations_are_frozen() -> None:
    recipe = load_recipe()
    assert isinstance(recipe, BaseModel)
    with pytest.raises(ValueError, match="frozen"):
        recipe.training.steps = 3  # type: ignore[misc]


def test_list_and_explanation() -> None:
    assert "quickstart" in [recipe.name for _, recipe in list_recipes()]
    keys = {key.path: key for key in keys_of(load_recipe())}
    assert keys["training.steps"].allowed == "whole number in [1, 1000000]"
    assert keys["guidance.method"].allowed.startswith("'sds', 'sjc', ")
    assert keys["regularisers.variation"].value == "0"
    for key in keys.values():  # what is shown can be typed
        if key.value not in ("", "[]", "{}"):
            assert load_recipe(overrides=[f"{key.path}={key.value}"]) is not None, key
