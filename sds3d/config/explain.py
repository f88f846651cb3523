"""Every key of a recipe with its value, what it may be and what it means: the source of help texts and tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from sds3d.config import plain_yaml
from sds3d.config.recipe import Recipe
from sds3d.config.schema import allowed, choices, variants
from sds3d.schedule import Schedule


@dataclass(frozen=True)
class Key:
    """One key: `path` is what stands before the "=" of an override."""

    path: str
    value: str
    allowed: str
    meaning: str


def keys_of(recipe: Recipe) -> list[Key]:
    """Return every key of `recipe`, in the order of the schema."""
    kinds = (recipe.renderer, *(() if recipe.motion is None else (recipe.motion,)))
    named = {
        "optimiser.learning_rates": {name: text for kind in kinds for name, text in kind.PARAMETERS.items()},
        "regularisers": {name: text for kind in kinds for name, text in kind.REGULARISERS.items()},
    }
    return list(_walk(recipe, "", named))


def _walk(
    section: BaseModel, prefix: str, named: dict[str, dict[str, str]], tag: str = "", tags: str = ""
) -> Iterator[Key]:
    """Yield the keys of `section`; its key `tag`, if it has one, chooses among variants and may be `tags`."""
    for name, field in type(section).model_fields.items():
        path, value = prefix + name, getattr(section, name)
        if path in named:
            for inner, meaning in named[path].items():
                shown = show(value[inner]) if inner in value else "0"
                yield Key(f"{path}.{inner}", shown, "number or schedule >= 0", meaning)
        elif isinstance(value, BaseModel) and not isinstance(value, Schedule):
            words = choices(variants(field)) if variants(field) else ""
            yield from _walk(value, f"{path}.", named, str(field.discriminator), words)
        else:
            is_tag = bool(tags) and name == tag
            meaning = field.description or ("the variant of this section" if is_tag else "")
            yield Key(path, show(value), tags if is_tag else allowed(field), meaning)


def show(value: Any) -> str:
    """Return a configuration value as one line of YAML, ready to be typed behind "key="."""
    if isinstance(value, Schedule):
        return _show_schedule(value)
    if isinstance(value, BaseModel):
        return plain_yaml.line(value.model_dump(mode="json"))
    if isinstance(value, tuple):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return value if value == "" else plain_yaml.line(value)


def _show_schedule(schedule: Schedule) -> str:
    if schedule.is_constant:
        return f"{schedule.values[0]:g}"
    points = ", ".join(f"[{at:g}, {value:g}]" for at, value in schedule.points)
    ends = "" if schedule.interpolation == "linear" else f", interpolation: {schedule.interpolation}"
    return f"{{clock: {schedule.clock}, points: [{points}]{ends}}}"
