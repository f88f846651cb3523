"""Turn what pydantic found wrong into one line: what is wrong, what was given, what is allowed, what to do."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sds3d.config.schema import (
    Location,
    Model,
    all_paths,
    allowed,
    choices,
    field_at,
    literal,
    sections_of,
    untagged,
    variants,
)
from sds3d.errors import ConfigError, nearest


def explain_failure(error: ValidationError, model: Model) -> ConfigError:
    """Return the first problem of `error` as a ConfigError with the dotted key; a misspelt key comes before others.

    `model` is the class that was validated; names, bounds and descriptions are read from it.
    """
    problem = first_problem(error)
    location, chosen = untagged(model, problem["loc"])
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, KeyProblem):
        return ConfigError(str(cause), path=cause.path)
    field = field_at(model, location, chosen)
    if problem["type"].startswith("union_tag") and field is not None:
        location, words = (*location, str(field.discriminator)), list(variants(field))
        given = problem["input"].get(field.discriminator) if isinstance(problem["input"], dict) else None
        text = f"'{dotted(location)}' is {shorten(given)}, but allowed is {choices(words)}. Choose one of them."
        return ConfigError(text, path=dotted(location))
    if problem["type"] == "extra_forbidden":
        suggestion = _suggest(model, location, chosen)
        return ConfigError(f"Unknown key '{dotted(location)}'. Did you mean {suggestion}?", path=dotted(location))
    return ConfigError(_sentence(problem, location, field), path=dotted(location))


class KeyProblem(ValueError):
    """Raised by a validator that compares several keys: `path` is the one to blame, the message is complete."""

    def __init__(self, path: str, message: str):
        super().__init__(message)
        self.path = path


def first_problem(error: ValidationError) -> Any:
    """Return the problem worth telling: a misspelt key explains a missing one, so it comes first."""
    problems = error.errors(include_url=False)
    return min(problems, key=lambda problem: problem["type"] != "extra_forbidden")


def dotted(location: Location) -> str:
    """Return a location as a dotted path: ('cameras', 'distance', 1) -> 'cameras.distance[1]'."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return text.removeprefix(".")


def _sentence(problem: Any, location: Location, field: FieldInfo | None) -> str:
    path, kind, given = dotted(location), problem["type"], shorten(problem["input"])
    in_list = bool(location) and isinstance(location[-1], int)
    if kind == "missing" and not in_list:
        return f"The key '{path}' is missing{_meaning(field)}. Add it."
    if kind == "value_error":
        return f"'{path}': {problem['ctx']['error']}"
    if kind == "literal_error":
        words = choices(literal(field)) if literal(field) else problem["ctx"]["expected"]
        return f"'{path}' is {given}, but allowed is {words}. Choose one of them."
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"'{path}' is {given}, but it is a section. Set a key in it, for example '{_example(field, path)}'."
    if kind == "missing" or field is None or "Schedule" in str(field.annotation):
        return f"'{path}' is {given}: {problem['msg'][:1].lower()}{problem['msg'][1:]}{_meaning(field)}. Correct it."
    if kind.startswith(("greater_than", "less_than", "finite_number")):
        return f"'{path}' is {given}, which is out of range: allowed is {allowed(field)}. Choose a value inside."
    return f"'{path}' is {given}, but allowed is {allowed(field)}{_meaning(field)}. Give such a value."


def _meaning(field: FieldInfo | None) -> str:
    return f" ({field.description})" if field is not None and field.description else ""


def _suggest(model: Model, location: Location, chosen: list[Model]) -> str:
    """Return the nearest keys by their last name, those of the same section first, as full paths."""
    *parents, name = [str(part) for part in location if not isinstance(part, int)]
    prefix = "".join(f"{part}." for part in parents)
    scores: dict[str, float] = {}
    for path in all_paths(model, only=chosen):
        section, _, leaf = path.rpartition(".")
        likeness = difflib.SequenceMatcher(None, name.lower(), leaf).ratio()
        likeness = max(likeness, 0.75) if name.lower() in leaf and len(name) > 3 else likeness
        if likeness >= 0.6:
            scores[path] = likeness + 0.2 * (section == ".".join(parents))
    best = max(scores.values(), default=0.0)
    near = sorted((path for path in scores if scores[path] > best - 0.15), key=lambda path: -scores[path])[:3]
    siblings = [path for path in all_paths(model, only=chosen) if path.rpartition(".")[0] == ".".join(parents)]
    return choices(near) if near else nearest(prefix + name, siblings or list(all_paths(model, only=chosen)))


def _example(field: FieldInfo | None, path: str) -> str:
    sections = sections_of(field) if field is not None else []
    return f"{path}.{next(iter(sections[0].model_fields))}=..." if sections else f"{path}.NAME=..."


def shorten(value: Any, limit: int = 60) -> str:
    """Return `value` as it would be written in a message: one line, at most `limit` characters."""
    words = {None: "empty", True: "true", False: "false"}
    plain = words[value] if value is None or isinstance(value, bool) else repr(value)
    text = " ".join((f"'{value}'" if isinstance(value, str) else plain).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
