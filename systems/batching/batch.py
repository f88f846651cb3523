"""One batch from the file of prompts to index and gallery."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from sds3d import hardware
from sds3d.config import Recipe
from sds3d.errors import AssetError, BackendError, ConfigError
from sds3d.run import now, write_json
from systems.batching.dispatch import Dispatcher, Limits, Outcome
from systems.batching.executors import Executor, WorkerSettings
from systems.batching.folder import BatchFolder
from systems.batching.index import Index
from systems.batching.jobs import Job, Refused, Wishes
from systems.batching.pages import with_scores, write_page
from systems.batching.processes import Processes
from systems.batching.prompt_file import read_prompts
from systems.batching.ray_workers import RayWorkers, is_installed
from systems.batching.results import finish, is_whole, scores_of
from systems.batching.rows import adopted_row, outcome_row, refused_row
from systems.batching.table import Progress
from systems.batching.worker import Order

Engine = Literal["auto", "ray", "processes"]
MEMORY_GB = 1.5
"""What a worker is taken to need where the recipe does not say; only for counting how many fit."""
PAGE_EVERY_S = 60.0


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """All of a batch but its prompts.

    Args:
        wishes: recipe and changes that hold for every prompt.
        workers: how many assets at a time; None: as many as processors, cards and memory allow.
        engine: where workers live; auto: Ray for several if it is installed and starts, else processes.
        address: a running Ray cluster, or None for this machine.
        threads: CPU threads a worker may use; None: all processors shared out.
        gpus: cards a worker gets (a share such as 0.5 is allowed); None: one where the recipe runs on cards.
        memory_gb: most memory a worker may hold, None for no cap.
        limits: retries and time of an asset.
        resume: make what is missing in a folder that holds a batch.
        command: what the user typed, for the records.
    """

    wishes: Wishes
    workers: int | None = None
    engine: Engine = "auto"
    address: str | None = None
    threads: int | None = None
    gpus: float | None = None
    memory_gb: float | None = None
    limits: Limits = field(default_factory=Limits)
    resume: bool = False
    command: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Summary:
    """How a session ended: numbers of assets, and where the pages are."""

    done: int
    failed: int
    made: int
    gallery: Path
    index: Path
    numbers: dict[str, Any]


def run_batch(prompts: Path, out: Path, settings: BatchSettings, console: Console) -> Summary:
    """Make an asset of every prompt in the file `prompts`, in the folder `out`, and return how it ended.

    Raises: AssetError, ConfigError, BackendError if it cannot begin; what concerns one asset alone is in the index.
        KeyboardInterrupt if the user stops it; index and gallery are written then, too.
    """
    jobs, refused = settings.wishes.resolve(read_prompts(prompts))
    folder = BatchFolder(out.expanduser().resolve())
    folder.open(settings.resume)
    with folder.locked():
        return _Session(folder, settings, jobs, refused, console).carry_out(prompts)


class _Session:
    def __init__(
        self, folder: BatchFolder, settings: BatchSettings, jobs: list[Job], refused: list[Refused], console: Console
    ) -> None:
        self.folder, self.settings, self.jobs, self.refused, self.console = folder, settings, jobs, refused, console
        self.index = Index(folder.path)
        self.order = [*(job.key for job in jobs), *(one.key for one in refused)]
        self.missing = [job for job in jobs if not self._is_done(job)]
        self.began = time.monotonic()
        self.page_at = time.monotonic()
        self.warned = ""
        self.dispatcher: Dispatcher | None = None

    def _is_done(self, job: Job) -> bool:
        """Return whether the asset is there; one that ended just when the last session was killed is entered now."""
        run = self.folder.run(job.name)
        if not is_whole(run):
            return False
        if self.index.rows.get(job.key, {}).get("status") != "done":
            finish(run)
            self.index.add(adopted_row(job, run, scores_of(run)))
        return True

    def carry_out(self, prompts: Path) -> Summary:
        before = len(self.jobs) - len(self.missing)
        for one in self.refused:
            self.index.add(refused_row(one, self.settings.wishes.recipe))
        self._record(prompts, {})
        numbers: dict[str, Any] = {}
        progress = Progress(self.console, len(self.order), before, len(self.refused))
        try:
            if self.missing:
                executor, count, worker = self._workers(len(self.missing))
                self._say(prompts, before, count, worker, executor)
                self._dispatch(executor, count, progress)
        finally:
            for row in self.index.rows.values():
                with_scores(self.folder, row)  # what an evaluation has found since
            write_page(self.folder, self.index.finish([*self.order, *self._others()]))
            numbers = self._numbers()
            self._record(prompts, numbers)
        done = sum(self.index.rows[key]["status"] == "done" for key in self.order)
        return Summary(
            done=done,
            failed=len(self.order) - done,
            made=progress.made,
            gallery=self.folder.gallery,
            index=self.index.file,
            numbers=numbers,
        )

    def _others(self) -> list[str]:
        """Return the keys of assets that are there although this file does not ask for them."""
        asked = set(self.order)
        rows = {key: row for key, row in self.index.rows.items() if key not in asked and row["status"] == "done"}
        return [key for key, row in rows.items() if (self.folder.path / row["folder"]).is_dir()]

    def _dispatch(self, executor: Executor, count: int, progress: Progress) -> None:
        def ended(outcome: Outcome) -> None:
            row = outcome_row(outcome, self.folder)
            self.index.add(row)
            progress.ended(outcome, row["status"] == "done")
            self._warn()
            self._page()

        limits = self.settings.limits
        self.dispatcher = Dispatcher(executor, self.missing, count, limits, self._order, ended, progress.tick)
        try:
            with progress:
                self.dispatcher.run()
        finally:
            executor.close()

    def _order(self, job: Job) -> Order:
        return Order(
            folder=self.folder.run(job.name).path,
            recipe=job.recipe,
            failures=self.folder.failures,
            command=self.settings.command,
        )

    def _workers(self, jobs: int) -> tuple[Executor, int, WorkerSettings]:
        """Return the executor, the number of workers and what each is given."""
        settings, recipe = self.settings, self.missing[0].recipe
        gpus = _gpus(recipe, settings)
        wanted = settings.workers or (jobs if settings.address else room(recipe, gpus))
        count = max(1, min(wanted, jobs))
        threads = settings.threads or (1 if settings.address else max(1, processors() // count))
        worker = WorkerSettings(lock=self.folder.workers_lock, threads=threads, gpus=gpus, memory_gb=settings.memory_gb)
        if not uses_ray(settings, count):
            return Processes(worker), count, worker
        try:
            executor = RayWorkers(worker, count, settings.address)
        except BackendError as error:
            if settings.engine == "ray" or settings.address is not None:
                raise
            self.console.print(f"Warning: {error} Processes are taken now.", markup=False, soft_wrap=True)
            return Processes(worker), count, worker
        return executor, min(count, executor.room()), worker

    def _say(self, prompts: Path, before: int, count: int, worker: WorkerSettings, executor: Executor) -> None:
        """Print the first line: what, where, with what."""
        kind = "Ray" if isinstance(executor, RayWorkers) else "processes"
        parts = [f"{len(self.missing)} to make", f"{before} done already" if before else ""]
        parts.append(f"{len(self.refused)} refused" if self.refused else "")
        twice = sum(len(job.lines) - 1 for job in self.jobs)
        parts.append(f"{twice} given twice" if twice else "")
        said = ", ".join(part for part in parts if part)
        cards = f", {worker.gpus:g} cards each" if worker.gpus else ""
        workers = f"{count} worker{'s' if count > 1 else ''} ({kind}, {worker.threads} threads each{cards})"
        recipe = self.missing[0].recipe
        line = f"{prompts} -> {self.folder.path}: {said}; recipe {recipe.name}, {recipe.steps} steps; {workers}"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _warn(self) -> None:
        """Say once that the index cannot be written."""
        if self.index.problem and self.index.problem != self.warned:
            self.warned = self.index.problem
            text = f"Warning: the index cannot be written now, it is tried again with the next asset: {self.warned}"
            self.console.print(text, markup=False, soft_wrap=True)

    def _page(self) -> None:
        """Write the gallery now and then, so that it can be looked at while the batch runs."""
        if time.monotonic() - self.page_at >= PAGE_EVERY_S:
            try:
                write_page(self.folder, [self.index.rows[key] for key in self.order if key in self.index.rows])
            except (AssetError, OSError) as error:
                self.index.problem = self.index.problem or str(error)
            self.page_at = time.monotonic()

    def _numbers(self) -> dict[str, Any]:
        """Return what the session took, for batch.json."""
        dispatcher = self.dispatcher
        if dispatcher is None or dispatcher.first_ready is None:
            return {}
        ended = time.monotonic()
        return {
            "workers": dispatcher.count,
            "wall_s": round(ended - self.began, 2),
            "start_s": round(dispatcher.first_ready - self.began, 2),
            "busy_s": round(dispatcher.busy_s, 2),
            "queue_s": round(dispatcher.queue_s, 3),
            "dispatch_s": round(dispatcher.ended - dispatcher.first_ready, 2),
            "worker_deaths": dispatcher.deaths,
        }

    def _record(self, prompts: Path, numbers: dict[str, Any]) -> None:
        wishes = self.settings.wishes
        write_json(
            self.folder.info_file,
            {
                "prompts": str(prompts.resolve()),
                "recipe": wishes.recipe,
                "overlays": list(wishes.overlays),
                "overrides": list(wishes.overrides),
                "assets": len(self.order),
                "command": list(self.settings.command),
                "hardware": hardware.summary(),
                "session": numbers,
                "updated": now(),
            },
        )


def uses_ray(settings: BatchSettings, count: int) -> bool:
    """Return whether `count` workers are actors of Ray. Raises: ConfigError for an address without it."""
    if settings.address is not None and settings.engine == "processes":
        raise ConfigError("--address names a Ray cluster, but --engine is processes. Leave out one of the two.")
    if settings.engine == "auto":
        return settings.address is not None or (count > 1 and is_installed())
    return settings.engine == "ray"


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def room(recipe: Recipe, gpus: float) -> int:
    """Return how many workers this machine has room for: cards, or processors, and memory."""
    if gpus:
        return max(1, math.floor(len(hardware.cuda_cards()[0]) / gpus))
    memory = hardware.memory_gb()
    fits = math.floor(memory[0] / (recipe.expected.memory_gb or MEMORY_GB)) if memory else 1
    return max(1, min(processors(), fits))


def _gpus(recipe: Recipe, settings: BatchSettings) -> float:
    """Return how many cards a worker gets: what was asked for, or one where the recipe runs on cards."""
    if settings.gpus is not None:
        return settings.gpus
    if recipe.device == "auto" and settings.address is None:
        return 1.0 if hardware.torch_cuda_version() and hardware.cuda_cards()[0] else 0.0
    return 1.0 if recipe.device == "cuda" else 0.0
