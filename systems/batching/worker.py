"""What a worker does: make one asset after the other with priors it keeps; never raise for what an asset can suffer."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import platform
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sds3d import report
from sds3d import run as runs
from sds3d.config import Recipe, dump_recipe
from sds3d.errors import Sds3dError
from sds3d.guidance.requirements import check_recipe
from sds3d.run import RunFolder
from systems.batching.folder import hold
from systems.batching.guards import MemoryCap, memory_gb
from systems.batching.results import finish, is_whole, scores_of
from systems.batching.shelf import Shelf, trains

if TYPE_CHECKING:
    from rich.console import Console

Reason = Literal["", "error", "crash", "memory", "time", "killed", "input", "stopped"]
"""Why an asset failed. error: something the user can act on; crash: an error of the program; memory, time: over its cap;
killed: the worker died; input: the line of the file is wrong; stopped: the worker was asked to end (SIGTERM)."""

_NO_USE_TO_REPEAT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True, kw_only=True)
class Order:
    """One asset to make.

    Args:
        folder: the run folder; what is there of the same recipe is continued, anything else is removed.
        recipe: the resolved recipe.
        failures: folder for the text of a program error.
        command: what the user typed, for run.json.
    """

    folder: Path
    recipe: Recipe
    failures: Path
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of an order.

    Args:
        reason, problem: why it failed; empty if it did not.
        seconds: wall-clock time of this attempt.
        cpu_s: what it took of processors, which does not depend on what else the machine is at.
        memory_gb: what the process held afterwards, None where the system does not say.
        worker: host and process.
        files: the asset, relative to the run folder.
        scores: numbers of metrics.json that say how good it is.
    """

    reason: Reason = ""
    problem: str = ""
    seconds: float = 0.0
    cpu_s: float | None = None
    memory_gb: float | None = None
    worker: str = ""
    files: tuple[str, ...] = ()
    scores: dict[str, float] = field(default_factory=dict)


class Worker:
    """Makes assets in this process. `lock` is held while it lives, so that sessions do not meet."""

    def __init__(self, lock: Path, memory_gb: float | None = None) -> None:
        self._lock = hold(lock)
        self._cap = MemoryCap(memory_gb)
        self.priors = Shelf()

    def warm_up(self) -> str:
        """Import what all assets need, set the number of threads, and return the name of this worker."""
        import torch

        import systems.base
        import systems.build
        import systems.session  # noqa: F401

        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or torch.get_num_threads()))
        gc.collect()
        gc.freeze()  # what the libraries hold stays: no need to look through it after every asset
        return worker_name()

    def carry_out(self, order: Order) -> Result:
        """Make the asset and return what became of it; errors become results."""
        started, worked, run = time.monotonic(), time.process_time(), RunFolder(order.folder)
        reason, problem, files = self._attempt(order, run)
        _tidy()
        return Result(
            reason=reason,
            problem=problem,
            seconds=round(time.monotonic() - started, 3),
            cpu_s=round(time.process_time() - worked, 3),
            memory_gb=memory_gb(),
            worker=worker_name(),
            files=tuple(os.path.relpath(file, run.path) for file in files),
            scores={} if reason else scores_of(run),
        )

    def _attempt(self, order: Order, run: RunFolder) -> tuple[Reason, str, list[Path]]:
        try:
            self._cap.run = run
            files = self._make(order, run)
            if files is None:
                return "stopped", "The worker was asked to end. Continue with --resume.", []
            finish(run)
            return "", "", files
        except Sds3dError as error:
            _give_room_back(run, error)
            return "error", " ".join(str(error).split()), []
        except Exception as error:
            _give_room_back(run, error)
            return _failure(error), _said(error, order), []
        finally:
            self._cap.run = None

    def _make(self, order: Order, run: RunFolder) -> list[Path] | None:
        """Start or continue the run and return its files; None if the user ended it."""
        is_begun = _is_begun(run, order.recipe)
        if is_begun and is_whole(run):
            return [Path(file) for file in run.read_info()["files"]]
        is_lost = is_begun and run.read_info().get("status") == "done"  # it ended, but its files are gone
        if is_lost or not is_begun:
            shutil.rmtree(run.path, ignore_errors=True)
            sources = check_recipe(order.recipe)
            run.create(order.recipe, report.record(order.recipe, sources, list(order.command), None))
            is_begun = False
        with _log(run) as console:
            return runs.attempt(run, lambda: self.make_asset(order.recipe, run, console, is_begun))

    def make_asset(self, recipe: Recipe, run: RunFolder, console: Console, is_begun: bool) -> runs.Outcome:
        """Train and export, from the start or from the last checkpoint."""
        from systems.text_to_3d import generate, resume

        prior_of = None if trains(recipe) else self.priors
        if is_begun:
            return resume(run, console=console, prior_of=prior_of)
        return generate(recipe, run, console=console, prior_of=prior_of)


def worker_name() -> str:
    """Return host and process."""
    return f"{platform.node()}:{os.getpid()}"


def _is_begun(run: RunFolder, recipe: Recipe) -> bool:
    """Return whether the folder holds a run of this very recipe."""
    if not (run.recipe_file.is_file() and run.info_file.is_file()):
        return False
    return run.recipe_file.read_text(encoding="utf-8") == dump_recipe(recipe)


@contextlib.contextmanager
def _log(run: RunFolder) -> Iterator[Console]:
    """Yield a console that writes to logs/log.txt of the run; warnings go there too."""
    from rich.console import Console

    folder = run.path / "logs"
    folder.mkdir(exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8", errors="replace") as file, warnings.catch_warnings():
        console = Console(file=file, width=160)

        def show(message: Warning | str, *_: Any, **__: Any) -> None:
            console.print(f"Warning: {' '.join(str(message).split())}", markup=False)

        warnings.showwarning = show
        yield console


def _failure(error: Exception) -> Reason:
    if isinstance(error, OSError) and error.errno in _NO_USE_TO_REPEAT:
        return "error"
    guard: Any = sys.modules.get("systems.memory_guard")  # loaded wherever something was trained
    is_memory = isinstance(error, MemoryError) or (guard is not None and guard.is_out_of_memory(error))
    return "memory" if is_memory else "crash"


def _give_room_back(run: RunFolder, error: BaseException) -> None:
    """Remove what was exported so far if the disk is full, so that index and other assets find room; checkpoints stay."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
            shutil.rmtree(run.export, ignore_errors=True)
            return
        cause = cause.__cause__ or cause.__context__


def _said(error: Exception, order: Order) -> str:
    """Return the error as one line; where it came from is kept in a file of its own, if that can be written."""
    text = f"{type(error).__name__}: {error}"
    with contextlib.suppress(OSError):
        order.failures.mkdir(exist_ok=True)
        (order.failures / f"{order.folder.name}.txt").write_text("".join(traceback.format_exception(error)))
    return text


def _tidy() -> None:
    """Give back what the last asset used."""
    gc.collect()
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
