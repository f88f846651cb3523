"""Questions about the schema of a recipe: which keys exist, what may they hold? Read from the pydantic models."""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Model = type[BaseModel]
Location = tuple[int | str, ...]


def variants(field: FieldInfo) -> dict[str, Model]:
    """Return the classes a section may have by the value of its `field.discriminator`; {} if it has just one."""
    if not isinstance(field.discriminator, str):
        return {}
    models = typing.get_args(field.annotation)
    return {typing.get_args(model.model_fields[field.discriminator].annotation)[0]: model for model in models}


def sections_of(field: FieldInfo) -> list[Model]:
    """Return the model classes a field may hold, alone, in a list or by names; [] if it holds a plain value."""
    kind = field.annotation
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    if is_named(field):
        kind = typing.get_args(kind)[1]
    if type(None) in typing.get_args(kind):  # a section that may be absent
        kind = next((one for one in typing.get_args(kind) if one is not type(None)), kind)
    return [kind] if isinstance(kind, type) and issubclass(kind, BaseModel) else list(variants(field).values())


def is_list(field: FieldInfo | None) -> bool:
    """Return whether a field holds a list."""
    return field is not None and typing.get_origin(field.annotation) is tuple


def is_named(field: FieldInfo | None) -> bool:
    """Return whether a field holds sections under names that are free to choose."""
    args = typing.get_args(field.annotation) if field is not None else ()
    is_map = field is not None and typing.get_origin(field.annotation) is dict
    return is_map and isinstance(args[1], type) and issubclass(args[1], BaseModel)


def field_at(model: Model, location: Iterable[int | str], chosen: Collection[Model] = ()) -> FieldInfo | None:
    """Return the field of `model` at `location` (without tags, see `untagged`), or None outside the schema.

    Variants in `chosen` come before others that have a key of the same name.
    """
    field: FieldInfo | None = None
    current, was_name = [model], False
    for part in location:
        if isinstance(part, int):
            continue
        if is_named(field) and not was_name:
            was_name = True
            continue
        was_name = False
        field = next((section.model_fields[part] for section in current if part in section.model_fields), None)
        if field is None:
            return None
        current = sorted(sections_of(field), key=lambda section: section not in chosen)
    return field


def untagged(model: Model, location: Location) -> tuple[Location, list[Model]]:
    """Return a pydantic location without the tags of variants and of bad keys, and the variants that were chosen."""
    clean: list[int | str] = []
    chosen: list[Model] = []
    tags: dict[str, Model] = {}
    for part in location:
        if part in tags:
            chosen.append(tags[str(part)])
            tags = {}
            continue
        if part == "[key]":  # a problem of a mapping's key, not of its value
            continue
        clean.append(part)
        field = field_at(model, clean)
        tags = variants(field) if field is not None else {}
    return tuple(clean), chosen


def all_paths(model: Model, prefix: str = "", only: Iterable[Model] = ()) -> Iterator[str]:
    """Yield every dotted key of the schema; of a section with variants, the keys of those in `only` or of all."""
    for name, field in model.model_fields.items():
        yield prefix + name
        sections = [] if is_named(field) else sections_of(field)  # what a stage may hold stands above already
        chosen = [section for section in sections if section in only] or sections
        seen = dict.fromkeys(path for section in chosen for path in all_paths(section, f"{prefix}{name}.", only))
        yield from seen


def literal(field: FieldInfo | None) -> tuple[Any, ...]:
    """Return the words a field may hold, or () if it is not a choice of words."""
    is_literal = field is not None and typing.get_origin(field.annotation) is typing.Literal
    return typing.get_args(field.annotation) if field is not None and is_literal else ()


def choices(words: Iterable[Any]) -> str:
    """Return "'a', 'b' or 'c'"."""
    quoted = [f"'{word}'" for word in words]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " or " + quoted[-1]


def allowed(field: FieldInfo) -> str:
    """Return the values a field takes, in words: "number in [1, 64]", "'cpu' or 'cuda'", "true or false", "text" ..."""
    if literal(field):
        return choices(literal(field))
    args = typing.get_args(field.annotation)
    if typing.get_origin(field.annotation) is tuple:
        if args[-1] is Ellipsis and sections_of(field):
            return "list of sections"
        if args[-1] is Ellipsis:
            words = typing.get_args(args[0]) if typing.get_origin(args[0]) is typing.Literal else ()
            return "list of " + (choices(words) if words else "text")
        return f"[number, number]{_span(typing.get_args(args[0])[1:])}"
    kinds = {int: "whole number", float: "number", str: "text", bool: "true or false"}
    kind = next((kind for kind in args if kind in kinds), field.annotation)
    or_null = " or null" if type(None) in args else ""
    if kind in kinds and typing.get_origin(field.annotation) is not dict:
        return kinds[kind] + (_span(field.metadata) if kind in (int, float) else "") + or_null
    return ("number or schedule" if "Schedule" in str(field.annotation) else "section") + or_null


def _span(metadata: Iterable[Any]) -> str:
    """Return bounds as " in [low, high]", with round brackets where the bound itself is not allowed."""
    low, high = "", ""
    entries = [inner for entry in metadata for inner in (entry.metadata if isinstance(entry, FieldInfo) else [entry])]
    for entry in entries:
        if isinstance(entry, annotated_types.Ge):
            low = f"[{_number(entry.ge)}"
        elif isinstance(entry, annotated_types.Gt):
            low = f"({_number(entry.gt)}"
        elif isinstance(entry, annotated_types.Le):
            high = f"{_number(entry.le)}]"
        elif isinstance(entry, annotated_types.Lt):
            high = f"{_number(entry.lt)})"
    return f" in {low or '(-inf'}, {high or 'inf)'}" if low or high else ""


def _number(value: Any) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
