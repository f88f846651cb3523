"""What the command line says about a run: its first line, the warning of unknown words, the record in run.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sds3d import __version__, citations, hardware
from sds3d.config import Recipe
from sds3d.config.triplane import TriplaneConfig
from sds3d.generators import about
from sds3d.priors.catalog import Entry
from sds3d.priors.source import Source

PROGRAM = "sds3d" if Path(sys.argv[0]).name == "sds3d" else "python launch.py"
"""How the user calls the program."""
PACKAGES = ("torch", "numpy", "diffusers", "transformers", "lightning", "numba", "gsplat", "trimesh", "av")


def first_line(recipe: Recipe, folder: Path) -> str:
    """Return what, where, how long and how much memory, before anything slow begins."""
    on = _device(recipe)
    where = f"{on} ({hardware.threads()} threads)" if on == "cpu" else on
    if isinstance(recipe.renderer, TriplaneConfig):
        return f"'{recipe.prompt.text}' -> {folder}: generator {recipe.renderer.weights}, no optimisation, on {where}"
    stages = [f"{stage.renderer.kind}, {stage.guidance.method}" for _, stage in recipe.plan()]
    return (
        f"'{recipe.prompt.text}' -> {folder}: recipe {recipe.name} ({'; then '.join(stages)}; prior {recipe.prior.path}), "
        f"{recipe.steps} steps on {where}, {_cost(recipe, on)}"
    )


def _device(recipe: Recipe) -> str:
    if recipe.device != "auto":
        return recipe.device
    return "cuda" if hardware.torch_cuda_version() and hardware.cuda_cards()[0] else "cpu"


def _cost(recipe: Recipe, device: str) -> str:
    """Return the measured cost scaled to the number of steps; nothing is guessed for what nobody measured."""
    seconds, memory = recipe.expected.cpu_s_per_step, recipe.expected.memory_gb
    if device != "cpu" or seconds is None:
        return "time shown as soon as it is known"
    minutes = seconds * recipe.steps / 60
    time = f"about {minutes:.0f} min" if minutes >= 1.5 else f"about {max(10, round(minutes * 6) * 10)} s"
    return f"{time} on 2 idle cores" + (f", {memory:g} GB" if memory else "")


def unknown_words(recipe: Recipe, source: Source) -> str:
    """Return a warning that names words of the prompt the prior, or the generator, never saw; "" if all are known."""
    prompt, folder = recipe.plan()[0][1].prompt.text, source.folder
    if isinstance(recipe.renderer, TriplaneConfig):
        return about.unknown_words(prompt, about.read_about(recipe.renderer.file))
    unknown = () if folder is None else folder.metadata.unknown_words(prompt)
    if folder is None or not unknown:
        return ""
    words = ", ".join(f"'{word}'" for word in unknown)
    return (
        f"Warning: the prior has never seen {words}, so expect something else. Nouns it knows: "
        f"{', '.join(folder.metadata.nouns)}. Colours: {', '.join(folder.metadata.colours)}. For other words use a "
        "real prior: prior.path=sd15, or another of 'fetch --list' (a GPU is advised)."
    )


def record(recipe: Recipe, sources: Sequence[Source], command: list[str], max_steps: int | None) -> dict[str, Any]:
    """Return what run.json says at the start: versions, hardware, licences, citations."""
    return {
        "prompt": recipe.prompt.text,
        "recipe": recipe.name,
        "max_steps": max_steps,
        "command": command,
        "versions": {"sds3d": __version__, **hardware.versions(PACKAGES)},
        "hardware": hardware.summary(),
        "licences": {"sds3d": "Apache-2.0", "prior": sources[0].licence},
        "priors": _used(sources),
        "citations": [work.line for work in citations.cited_by(recipe)],
        "seconds": 0.0,
    }


def _used(sources: Sequence[Source]) -> list[dict[str, str]]:
    """Return name, hub id, revision and licence of every model of a run, those that join a prior included, each once."""
    models = [model.record() for source in sources for model in (source, *source.others)]
    return [row for place, row in enumerate(models) if row not in models[:place]]


def model_row(entry: Entry, is_here: bool) -> dict[str, Any]:
    """Return an entry of the catalog as a row of the list of models."""
    about = "~" if "size_gb" in entry.unverified else ""
    return {
        "name": entry.name,
        "here": "yes" if is_here else "",
        "GB": f"{about}{entry.size_gb:g}",
        "pixels": entry.resolution,
        "family": entry.family,
        "gives": ", ".join(entry.gives),
        "licence": entry.licence + (" (gated)" if entry.gated else ""),
        "what": entry.title + (f"; {entry.note}" if entry.note else ""),
    }


def model_lines(row: dict[str, Any]) -> str:
    """Return a row of `model_row` as two lines."""
    here = " (on this machine)" if row["here"] else ""
    facts = f"{row['family']}, {row['pixels']} pixels, {row['GB']} GB, knows {row['gives'] or 'nothing by itself'}"
    return f"{row['name']}{here}: {row['what']}\n    {facts}; licence {row['licence']}"


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows of equal keys as a table that folds long cells instead of cutting them."""
    made = Table(title=title, title_justify="left")
    for column in rows[0] if rows else ():
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*(escape(str("" if cell is None else cell)) for cell in row.values()))
    return made


def recipe_lines(recipe: Recipe) -> str:
    """Return a recipe as a few lines for the list of recipes."""
    facts = {
        "paper": f"{recipe.paper} ({recipe.year})" if recipe.paper and recipe.year else recipe.paper,
        "needs": ", ".join(recipe.needs) or "nothing beyond the installation",
        "writes": ", ".join(recipe.writes),
    }
    lines = [f"{recipe.name} ({recipe.status}): {recipe.title}"]
    return "\n".join(lines + [f"    {name}: {text}" for name, text in facts.items() if text])


def method_lines(row: dict[str, Any]) -> str:
    """Return a row of the method table (`sds3d.guidance.methods.table_rows`) as a few lines."""
    facts = ("residual", "branches", "weight", "evaluations", "needs", "paper", "source")
    lines = [f"{row['method']}: {row['name']}"]
    return "\n".join(lines + [f"    {name}: {row[name]}" for name in facts if row[name]])


def show(title: str, rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """Print rows as a table, or as JSON."""
    if as_json:
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        Console(highlight=False).print(table(title, rows))
