"""The file of prompts: one a line (.txt), a table (.csv), or an object a line (.jsonl). Imports nothing slow."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sds3d.config.load import is_override
from sds3d.errors import AssetError, ConfigError, nearest

DELIMITERS = (",", ";", "\t")
KEYS = ("prompt", "seed", "overrides")
_SHOWN = 120


@dataclass(frozen=True, kw_only=True)
class PromptLine:
    """One wish of the file.

    Args:
        line: number of the line it is on (where it ends, if it has several), from 1.
        text: the prompt, without spaces around it.
        seed: its own seed, None for that of the command.
        overrides: changes of the recipe for this prompt alone, "dotted.key=value" each.
    """

    line: int
    text: str
    seed: int | None = None
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BadLine:
    """A line nothing can be made of, why, and its beginning to recognise it by."""

    line: int
    text: str
    problem: str


Line = PromptLine | BadLine


def read_prompts(path: Path) -> list[Line]:
    """Return the wishes in the file at `path`, in its order; a line that is wrong does not spoil the others.

    .txt: a prompt a line; empty lines and lines that begin with # are left out. .csv (comma, semicolon or tab): a column
    "prompt", if wanted "seed", and further columns named after keys of the recipe, whose empty cells change nothing.
    .jsonl: a text, or an object of "prompt", "seed" and "overrides" ({"training.steps": 200}), a line.

    Raises: AssetError if the file cannot be read as UTF-8 text; ConfigError for another ending, a table without the column
        "prompt", or a file without a single line.
    """
    readers: dict[str, Callable[[str], Iterator[Line]]] = {".txt": _plain, ".csv": _table, ".jsonl": _objects}
    ending = path.suffix.lower()
    if ending not in readers:
        raise ConfigError(
            f"The file of prompts '{path}' ends in '{ending}', but .txt (a prompt a line), .csv or .jsonl is needed. "
            "Rename or convert it."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise AssetError(
            f"The file of prompts '{path}' is not UTF-8 text (byte {error.start} is {error.object[error.start]:#04x}). "
            "Save it as UTF-8.",
            path,
        ) from error
    except OSError as error:
        raise AssetError(
            f"The file of prompts '{path}' cannot be read: {(error.strerror or str(error)).lower()}. Give a text file "
            "that exists and that you may read.",
            path,
        ) from error
    try:
        lines = [_checked(line) for line in readers[ending](text)]
    except csv.Error as error:
        raise AssetError(f"The table '{path}' cannot be read: {error}. Save it as plain CSV.", path) from error
    if not lines:
        raise ConfigError(f"The file of prompts '{path}' holds no prompt. Write at least one.")
    return lines


def _plain(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield PromptLine(line=number, text=line.strip())


def _table(text: str) -> Iterator[Line]:
    first = text.split("\n", 1)[0]
    headers = {mark: [name.strip() for name in next(csv.reader([first], delimiter=mark), [])] for mark in DELIMITERS}
    mark = next((mark for mark, names in headers.items() if "prompt" in names), None)
    if mark is None:
        raise ConfigError(
            f"The table of prompts has no column 'prompt': its first line is '{first.strip()[:_SHOWN]}'. Name the columns "
            "there: prompt, and if wanted seed and keys of the recipe, for example training.steps."
        )
    reader = csv.DictReader(io.StringIO(text, newline=""), fieldnames=headers[mark], delimiter=mark, restkey="")
    for number, row in enumerate(reader):
        if number == 0:
            continue  # the header itself
        if "" in row:
            yield BadLine(line=reader.line_num, text=str(row.get("prompt")), problem="it has more cells than columns")
            continue
        cells = {name: (cell or "").strip() for name, cell in row.items()}
        keys = {name: cell for name, cell in cells.items() if cell and name not in ("prompt", "seed")}
        yield _wish(reader.line_num, cells["prompt"], cells.get("seed") or None, keys, lambda cell: str(cell))


def _objects(text: str) -> Iterator[Line]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadLine(line=number, text=line, problem=f"it is not JSON ({str(error)[:_SHOWN]})")
            continue
        found = {"prompt": found} if isinstance(found, str) else found
        problem = _misfit(found)
        if problem:
            yield BadLine(line=number, text=line, problem=problem)
        else:
            yield _wish(number, found["prompt"], found.get("seed"), found.get("overrides", {}), json.dumps)


def _misfit(found: Any) -> str:
    """Return what is wrong with the object of a line, "" if nothing is."""
    if not isinstance(found, dict):
        return f"it is a {type(found).__name__}; a text or an object with 'prompt' is needed"
    for key in found:
        if key not in KEYS:
            return f"unknown key '{key[:_SHOWN]}'; did you mean {nearest(key, KEYS)}"
    if not isinstance(found.get("prompt"), str):
        return "it has no 'prompt' that is a text"
    if not isinstance(found.get("overrides", {}), dict):
        return "'overrides' is no object of keys and values, for example {\"training.steps\": 200}"
    return ""


def _wish(line: int, text: str, seed: Any, changes: Mapping[str, Any], write: Callable[[Any], str]) -> Line:
    """Return the line as a wish; values of `changes` become texts by `write`."""
    if seed is not None and (isinstance(seed, bool) or not str(seed).isascii() or not str(seed).isdigit()):
        return BadLine(line=line, text=text, problem=f"the seed '{str(seed)[:_SHOWN]}' is no whole number from 0")
    overrides = tuple(f"{key}={write(value)}" for key, value in changes.items())
    for key, override in zip(changes, overrides, strict=True):
        if not is_override(override):
            return BadLine(line=line, text=text, problem=f"'{key[:_SHOWN]}' is no key of a recipe, like training.steps")
    return PromptLine(line=line, text=text.strip(), seed=None if seed is None else int(seed), overrides=overrides)


def _checked(line: Line) -> Line:
    """Return the line, or what is wrong with its characters."""
    if isinstance(line, BadLine):
        return line
    problem = "the prompt is empty" if not line.text else ""
    if any(ord(character) < 32 and character not in "\t\n\r" for character in line.text):
        problem = "the prompt holds control characters"
    if any(0xD800 <= ord(character) < 0xE000 for character in line.text):
        problem = "the prompt holds half of a surrogate pair, which is no character"
    return BadLine(line=line.line, text=line.text, problem=problem) if problem else line
