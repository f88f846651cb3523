"""The texts of a page, as the markdown that viser compiles: whatever a user typed must come out as it was typed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from sds3d.config import Recipe
from sds3d.schedule import Schedule

_PLAIN = set(" ,.;:-'\"()?!/=%+…")
LONGEST = 400
"""Characters of a text that are shown."""


def escaped(text: Any) -> str:
    """Return `text` on one line without characters that mean something in markdown, HTML or MDX."""
    line = " ".join(str(text).split())
    line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return "".join(c if c.isalnum() or c in _PLAIN else f"&#{ord(c)};" for c in line)


def about(recipe: Recipe) -> str:
    """Return what is being made, with which recipe, method and prior."""
    prompt = recipe.prompt
    lines = [f"**{escaped(prompt.text)}**"]
    if prompt.negative:
        lines.append(f"Not: {escaped(prompt.negative)}")
    facts = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "asset": recipe.renderer.kind,
        "method": recipe.guidance.method,
        "prior": recipe.prior.path,
    }
    return "\n\n".join([*lines, table(facts)])


def table(values: Mapping[str, Any]) -> str:
    """Return a two-column table."""
    rows = [f"| {escaped(name.replace('_', ' '))} | {escaped(number(value))} |" for name, value in values.items()]
    return "\n".join(["| | |", "|:--|--:|", *rows])


def number(value: Any) -> str:
    """Return a value briefly."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def schedules(stage: Recipe, step: int, total: int) -> dict[str, float]:
    """Return the present value of everything in `stage` that changes with time, and of all learning rates, by its key."""
    parts = {"guidance": stage.guidance, "cameras": stage.cameras, "regularisers": stage.regularisers}
    rates = {f"learning rate of {name}": rate for name, rate in stage.optimiser.learning_rates.items()}
    found = {path: schedule for name, part in parts.items() for path, schedule in _walk(name, part)}
    found |= {
        path: schedule for number, extra in enumerate(stage.also) for path, schedule in _walk(f"also.{number}", extra)
    }
    moving = {path: schedule for path, schedule in found.items() if not schedule.is_constant}
    return {path: schedule.at(step, total) for path, schedule in {**moving, **rates}.items()}


def _walk(path: str, value: Any) -> Iterator[tuple[str, Schedule]]:
    if isinstance(value, Schedule):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _walk(f"{path}.{name}", getattr(value, name))
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _walk(f"{path}.{name}", entry)
