"""The run folder: where one run keeps everything it writes, and how an existing one is opened again.

    recipe.yaml run.json metrics.json    resolved configuration; state, versions, hardware, licences; numbers
    checkpoints/ previews/ export/       what training saves, pictures on the way, the asset

Every file is written atomically. Nothing is created before `create`, and `discard` removes a run that produced nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from sds3d.config import Recipe, dump_recipe, load_recipe
from sds3d.errors import AssetError, nearest
from sds3d.export.atomic import write_bytes

OUTPUTS = Path("outputs")
SCHEMA = 1
"""Number of the layout of run.json; raised when a reader must know the difference."""


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run. Make one with `plan` and `create`, or `open_run`."""

    path: Path

    @property
    def recipe_file(self) -> Path:
        """The resolved recipe, which alone reproduces the run."""
        return self.path / "recipe.yaml"

    @property
    def info_file(self) -> Path:
        """State, versions, hardware, times, licences and citations."""
        return self.path / "run.json"

    @property
    def metrics_file(self) -> Path:
        """Numbers about the asset."""
        return self.path / "metrics.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def last_checkpoint(self) -> Path:
        """The newest checkpoint (it need not exist yet)."""
        return self.checkpoints / "last.ckpt"

    @property
    def previews(self) -> Path:
        """Folder of pictures made on the way."""
        return self.path / "previews"

    @property
    def export(self) -> Path:
        """Folder of the finished asset."""
        return self.path / "export"

    def create(self, recipe: Recipe, info: dict[str, Any]) -> None:
        """Make the folder and write recipe.yaml and run.json. Raises: AssetError if it cannot or is in use."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(exist_ok=self.path.is_dir() and not any(self.path.iterdir()))
        except FileExistsError as error:
            raise _used(self.path) from error
        except OSError as error:
            raise _unwritable(self.path, error) from error
        write_bytes(self.recipe_file, dump_recipe(recipe).encode())
        self.update_info(schema=SCHEMA, status="running", created=now(), **info)

    def read_recipe(self) -> Recipe:
        """Return the recipe of the run."""
        return load_recipe(self.recipe_file)

    def read_info(self) -> dict[str, Any]:
        """Return the contents of run.json."""
        return _read_json(self.info_file)

    def update_info(self, **values: Any) -> None:
        """Set keys of run.json, leaving the others as they are."""
        old = self.read_info() if self.info_file.exists() else {}
        write_json(self.info_file, {**old, **values, "updated": now()})

    def read_metrics(self) -> dict[str, Any]:
        """Return the contents of metrics.json, {} if there are none yet."""
        return _read_json(self.metrics_file) if self.metrics_file.exists() else {}

    def update_metrics(self, **values: Any) -> None:
        """Set keys of metrics.json, leaving the others as they are."""
        write_json(self.metrics_file, {**self.read_metrics(), **values})

    def preview(self, step: int, stage: str = "") -> Path:
        """Return the path of the preview of `step`, of a named stage where there are several."""
        return self.previews / f"{stage}{'-' if stage else ''}step-{step:06d}.png"

    def stage_checkpoint(self, number: int, name: str) -> Path:
        """Return the path of the checkpoint at the end of stage `number` (0, 1, ...)."""
        return self.checkpoints / f"stage-{number + 1}-{name}.ckpt"

    def discard(self) -> bool:
        """Remove the run and the folders above it that became empty, unless it holds results; return whether it did."""
        for folder in (self.checkpoints, self.previews, self.export):
            if folder.is_dir() and any(folder.iterdir()):
                return False
        if not self.info_file.exists():
            return False
        shutil.rmtree(self.path)
        for parent in (self.path.parent, self.path.parent.parent):
            # Only what `plan` makes by itself: outputs/<prompt>/; a folder the user named keeps its parents.
            if OUTPUTS in (parent, parent.parent) and not any(parent.iterdir()):
                parent.rmdir()
        return True


def slug(prompt: str) -> str:
    """Return `prompt` as a folder name: small letters and digits of any script, joined by "-", about 60 at most."""
    text = unicodedata.normalize("NFKC", prompt).lower()
    name = re.sub(r"[\W_]+", "-", text).strip("-")
    if name and len(name) <= 60 and len(name.encode()) <= 200:
        return name
    digest = hashlib.sha256(prompt.encode()).hexdigest()[:8]
    short = name.encode()[:50].decode(errors="ignore").rstrip("-")
    return f"{short}-{digest}" if short else f"prompt-{digest}"


def plan(out: Path | None, prompt: str, seed: int) -> RunFolder:
    """Return the folder a new run shall use, having checked that it can be written; creates nothing that stays.

    Without `out` it is outputs/<prompt>/seed-<seed>, with -2, -3 ... behind it if that exists.
    Raises: AssetError if `out` is in use, is a file, or cannot be written.
    """
    if out is None:
        base = OUTPUTS / slug(prompt) / f"seed-{seed}"
        number = 2
        path = base
        while path.exists():
            path, number = base.with_name(f"{base.name}-{number}"), number + 1
    else:
        path = out.expanduser()
        with contextlib.suppress(OSError, ValueError):  # `_check_writable` says it better
            if path.is_dir() and any(path.iterdir()):
                raise _used(path)
    _check_writable(path)
    return RunFolder(path)


def open_run(path: Path, needs_checkpoint: bool = True) -> RunFolder:
    """Return an existing run. Raises: AssetError if `path` is not a run folder, or has no checkpoint but needs one."""
    folder = path.expanduser()
    folder = folder.parent if folder.name in ("recipe.yaml", "run.json") and folder.is_file() else folder
    if not folder.is_dir():
        raise AssetError(f"There is no run '{path}': the folder does not exist.{_known_runs(path)}", path)
    run = RunFolder(folder)
    for file in (run.recipe_file, run.info_file):
        if not file.is_file():
            raise AssetError(f"'{path}' is not a run folder: it has no {file.name}.{_known_runs(path)}", path)
    run.read_info()
    if needs_checkpoint and not run.last_checkpoint.is_file():
        raise AssetError(
            f"The run '{path}' has no checkpoint yet ('{run.last_checkpoint}' is missing). Start it again: "
            f"python launch.py generate --recipe {run.recipe_file}",
            path,
        )
    return run


class Outcome(Protocol):
    """What a system hands back: the files of the asset, none if it was interrupted."""

    @property
    def files(self) -> Sequence[Path]:
        """Files written."""

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped it before the end."""


def attempt(run: RunFolder, work: Callable[[], Outcome]) -> list[Path] | None:
    """Carry out `work` and return its files, or None if it was interrupted; run.json tells the truth whatever happens.

    A run that failed, or was stopped, before it had anything worth keeping is removed. Errors pass through.
    """
    started, spent = time.monotonic(), float(run.read_info().get("seconds", 0.0))
    state, problem = "failed", ""
    files: list[Path] = []
    try:
        outcome = work()
        state, files = ("interrupted" if outcome.interrupted else "done"), list(outcome.files)
    except KeyboardInterrupt:
        state = "interrupted"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
        raise
    finally:
        if state == "done" or not run.discard():
            seconds = round(spent + time.monotonic() - started, 1)
            run.update_info(status=state, seconds=seconds, files=[str(file) for file in files], problem=problem)
    return files if state == "done" else None


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON, atomically; NaN and infinity, which JSON does not know, are errors."""
    write_bytes(path, (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def now() -> str:
    """Return the present time, UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AssetError(f"'{file}' cannot be read: {error}. Restore it, or start a new run.", file) from error
    if not isinstance(data, dict):
        raise AssetError(f"'{file}' holds no JSON object. Restore it, or start a new run.", file)
    return data


def _used(path: Path) -> AssetError:
    return AssetError(
        f"The output folder '{path}' is already used. Give --out a new or empty folder, or continue that run: "
        f"python launch.py resume {path}",
        path,
    )


def _unwritable(path: Path, error: OSError) -> AssetError:
    reason = (error.strerror or str(error)).lower()
    return AssetError(f"The output folder '{path}' cannot be written: {reason}. Give --out a writable folder.", path)


def _check_writable(path: Path) -> None:
    """Raise AssetError unless a folder can be made at `path`; tries it in the nearest folder that exists."""
    place = path
    try:
        if "\0" in str(path):
            raise OSError(22, "a name cannot hold the character NUL")
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(20, f"'{place}' is a file")
        longest = max((len(part.encode()) for part in path.parts), default=0)
        if longest > 255:
            raise OSError(36, "a part of the name is too long")
        os.rmdir(tempfile.mkdtemp(prefix=".sds3d-", dir=place))
    except OSError as error:
        raise _unwritable(path, error) from error


def _known_runs(path: Path) -> str:
    runs = [str(file.parent) for file in sorted(OUTPUTS.glob("*/*/run.json"))]
    return f" Runs here: {nearest(str(path), runs)}." if runs else " Give the folder of a run made by 'generate'."
