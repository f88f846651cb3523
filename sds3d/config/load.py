"""Recipe + overlays + key=value overrides -> one validated recipe, and back to plain YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sds3d.config import plain_yaml
from sds3d.config.layers import Layer, merge, stacked
from sds3d.config.problems import explain_failure, shorten
from sds3d.config.recipe import Recipe
from sds3d.config.shipped import overlay_files, recipe_files
from sds3d.errors import ConfigError, nearest

DEFAULT_RECIPE = "quickstart"


def load_recipe(
    recipe: str | Path = DEFAULT_RECIPE,
    overlays: Iterable[str | Path] = (),
    overrides: Iterable[str] = (),
    options: Mapping[str, tuple[str, Any]] | None = None,
) -> Recipe:
    """Return the validated recipe; a relative prior path is made absolute, so that the result holds anywhere.

    Args:
        recipe: name of a shipped recipe, or a YAML file.
        overlays: names of shipped overlays or YAML files, applied in order.
        overrides: texts "dotted.key=value", the value in YAML.
        options: dotted key -> (name of the command-line option, value); they win over everything.
    Raises: ConfigError, one line, naming the key and where it was written.
    """
    files = [_file_layer("recipe", recipe, recipe_files)]
    files += [_file_layer("overlay", overlay, overlay_files) for overlay in overlays]
    arguments = [parse_override(text) for text in overrides]
    arguments += [Layer(name, _nested(key, value)) for key, (name, value) in (options or {}).items()]
    return _absolute_prior(_validate(files, arguments))


def _validate(files: list[Layer], arguments: list[Layer]) -> Recipe:
    """Return the recipe that all layers amount to. Raises: ConfigError."""
    # Arguments are joined first, so that 'guidance.method=sds' drops keys of the recipe's method but not of arguments.
    typed: dict[str, Any] = {}
    for layer in arguments:
        typed = merge(typed, layer.data, layer.origin, None)
    layers = [*files, *arguments]
    merged = stacked([*files, Layer(layers[-1].origin, typed)])
    try:
        return Recipe.model_validate(merged)
    except ValidationError as error:
        problem = explain_failure(error, Recipe)
        origin = _origin(layers, problem.path)
        text = f"{str(problem).rstrip()} [{origin}]" if origin else str(problem)
        raise ConfigError(text, path=problem.path) from error


def dump_recipe(recipe: Recipe) -> str:
    """Return the whole recipe as YAML text; loading that file alone gives an equal recipe."""
    return plain_yaml.write(recipe.model_dump(mode="json"))


def is_override(text: str) -> bool:
    """Return whether `text` has the form dotted.key=value, the keys in small letters as all of them are."""
    key, equals, _ = text.partition("=")
    return bool(equals) and key == key.lower() and all(part.isidentifier() for part in key.split("."))


def capped(recipe: Recipe, max_steps: int | None) -> Recipe:
    """Return the recipe with at most `max_steps` steps a stage: recipe.yaml alone must reproduce a run cut short."""
    if max_steps is None:
        return recipe

    def cut(part: Any) -> Any:
        steps = min(part.training.steps, max_steps)
        return part.model_copy(update={"training": part.training.model_copy(update={"steps": steps})})

    return cut(recipe.model_copy(update={"stages": {name: cut(stage) for name, stage in recipe.stages.items()}}))


def parse_override(text: str) -> Layer:
    """Return the layer of one "dotted.key=value" argument. Raises: ConfigError if it has another form."""
    key, _, value = text.partition("=")
    if not is_override(text):
        raise ConfigError(
            f"The argument {shorten(text)} is not of the form key=value, for example training.steps=200. "
            "A prompt of several words needs quotes."
        )
    data = plain_yaml.parse(value, f"The value of '{key}'") if value.strip() else ""
    return Layer(f"override {shorten(text)}", _nested(key, data))


def list_recipes() -> list[tuple[Path, Recipe]]:
    """Return the shipped recipes with their files, in alphabetic order."""
    return [(file, load_recipe(file)) for file in recipe_files().values()]


def _file_layer(what: str, name: str | Path, shipped: Any) -> Layer:
    """Read a shipped file by name, or any YAML file by path."""
    text = str(name)
    is_path = isinstance(name, Path) or "/" in text or "\\" in text or text.endswith((".yaml", ".yml"))
    if is_path and Path(text).expanduser().is_file():
        return Layer(f"{what} '{text}'", plain_yaml.read(Path(text).expanduser()))
    files = shipped()
    if is_path:
        raise ConfigError(
            f"The {what} file '{text}' does not exist. Give an existing YAML file or a name: {nearest(text, files)}."
        )
    if text not in files:
        raise ConfigError(
            f"Unknown {what} '{text}'. Did you mean {nearest(text, files)}? A path to a YAML file also works."
        )
    return Layer(f"{what} '{text}'", plain_yaml.read(files[text]))


def _nested(key: str, value: Any) -> dict[str, Any]:
    data: Any = value
    for part in reversed(key.split(".")):
        data = {part: data}
    return dict(data)


def _origin(layers: list[Layer], path: str) -> str:
    """Return where `path`, or else the section around it, was last written; "" if in no layer."""
    parts = path.replace("[", ".").split(".") if path else []
    for length in range(len(parts), 0, -1):
        for layer in reversed(layers):
            data: Any = layer.data
            for part in parts[:length]:
                data = data.get(part, _ABSENT) if isinstance(data, dict) else _ABSENT
            if data is not _ABSENT:
                return layer.origin
    return layers[0].origin if layers else ""


_ABSENT = object()


def _absolute_prior(recipe: Recipe) -> Recipe:
    def in_part(part: Any) -> Any:
        also = tuple(extra.model_copy(update={"prior": extra.prior.absolute()}) for extra in part.also)
        return part.model_copy(update={"prior": part.prior.absolute(), "also": also})

    stages = {name: in_part(stage) for name, stage in recipe.stages.items()}
    return in_part(recipe.model_copy(update={"stages": stages}))
