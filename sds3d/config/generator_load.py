"""Generator recipes by name or file, with overrides; and back to YAML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sds3d.config import plain_yaml
from sds3d.config.generator import FlowRecipe, GeneratorRecipe, is_flow
from sds3d.config.load import parse_override
from sds3d.config.problems import explain_failure
from sds3d.config.shipped import shipped
from sds3d.errors import ConfigError, nearest

AnyGeneratorRecipe = GeneratorRecipe | FlowRecipe


def generator_recipe_files() -> dict[str, Path]:
    """Return the shipped generator recipes: name -> file."""
    return {file.stem: file for file in sorted(shipped("configs", "generators").glob("*.yaml"))}


def load_generator_recipe(name: str | Path, overrides: Iterable[str] = ()) -> AnyGeneratorRecipe:
    """Return the validated recipe of a shipped name or a YAML file, with texts "dotted.key=value" applied on top.

    A number in a key counts in a list: teachers.0.weight=2. Raises: ConfigError, one line, naming the key.
    """
    data = plain_yaml.read(_file(name))
    for text in overrides:
        data = _put(data, parse_override(_as_keys(text)).data)
    model = FlowRecipe if is_flow(data) else GeneratorRecipe
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise explain_failure(error, model) from error


def dump_generator_recipe(recipe: AnyGeneratorRecipe) -> str:
    """Return the whole recipe as YAML; loading that text alone gives an equal recipe."""
    return plain_yaml.write(recipe.model_dump(mode="json"))


def list_generator_recipes() -> list[tuple[Path, AnyGeneratorRecipe]]:
    """Return the shipped generator recipes with their files, in alphabetic order."""
    return [(file, load_generator_recipe(file)) for file in generator_recipe_files().values()]


def _file(name: str | Path) -> Path:
    known = generator_recipe_files()
    if str(name) in known:
        return known[str(name)]
    path = Path(name).expanduser()
    if path.is_file():
        return path
    raise ConfigError(
        f"Unknown generator recipe '{name}'. Did you mean {nearest(str(name), known)}? A path to a YAML file also works."
    )


def _as_keys(text: str) -> str:
    """Return an override whose list places are written as keys: teachers.0.weight becomes teachers._0.weight."""
    key, equals, value = text.partition("=")
    parts = [f"_{part}" if part.isdigit() else part for part in key.split(".")]
    return ".".join(parts) + equals + value


def _put(old: Any, new: Any) -> Any:
    """Return `old` with the nested keys of `new`; keys _0, _1, ... are places in a list."""
    if not isinstance(new, dict):
        return new
    places = {key: int(key[1:]) for key in new if key[:1] == "_" and key[1:].isdigit()}
    if places and isinstance(old, list):
        changed = list(old)
        for key, place in places.items():
            if place >= len(changed):
                raise ConfigError(f"There is no entry {place}: the list has {len(changed)}. Count from 0.")
            changed[place] = _put(changed[place], new[key])
        return changed
    base = dict(old) if isinstance(old, dict) else {}
    return {**base, **{key: _put(base.get(key), value) for key, value in new.items()}}
