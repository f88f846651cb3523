"""The queue: hands jobs to workers, tries again what deserves it, and ends what takes too long."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sds3d.errors import BackendError, Sds3dError
from sds3d.run import RunFolder
from systems.batching.executors import Died, Ended, Event, Executor, Ready
from systems.batching.guards import OUT_OF_MEMORY
from systems.batching.jobs import Job
from systems.batching.worker import Order, Reason, Result

AGAIN: tuple[Reason, ...] = ("crash", "memory", "killed", "stopped")
"""Failures that may not happen again; the others would."""
POLL_S = 0.2
_STARTS = 3
"""A worker that dies so often in a row before it is ready will not start at all."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """retries: how often a failed asset is tried again; seconds: wall-clock time of one attempt, None for no limit."""

    retries: int = 3
    seconds: float | None = None


@dataclass
class Slot:
    """A worker and what it is at. `state`: starting, idle or busy; `since`: when that began (monotonic seconds)."""

    state: str
    since: float
    worker: str = ""
    job: Job | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The end of a job after its last attempt."""

    job: Job
    result: Result
    attempts: int


class Dispatcher:
    """Carries out jobs with `count` workers of `executor`, in their order.

    Args:
        order_of: makes the order of a job.
        report: called with every outcome, as soon as it is known.
        tick: called several times a second, to show how it stands.

    A worker that dies is replaced; its asset goes to the front of the queue and continues from its last checkpoint.
    """

    def __init__(
        self,
        executor: Executor,
        jobs: Iterable[Job],
        count: int,
        limits: Limits,
        order_of: Callable[[Job], Order],
        report: Callable[[Outcome], None],
        tick: Callable[[Dispatcher], None] = lambda _: None,
    ) -> None:
        self.executor, self.limits, self.order_of, self.report, self.tick = executor, limits, order_of, report, tick
        self.waiting = deque(jobs)
        self.count = min(count, len(self.waiting))
        self.slots: dict[int, Slot] = {}
        self.attempts: dict[str, int] = {}
        self.spent: dict[str, float] = {}
        self._crashes: dict[str, str] = {}
        self._outcomes: deque[Outcome] = deque()
        self.busy_s = 0.0
        self.queue_s = 0.0
        """Worker time the queue cost: from one asset's end to the order of the next, messages included."""
        self.deaths = 0
        self.first_ready: float | None = None
        self.ended = time.monotonic()
        self._failed_starts = 0

    @property
    def running(self) -> list[Slot]:
        """Workers that are at an asset."""
        return [slot for slot in self.slots.values() if slot.state == "busy"]

    def run(self) -> None:
        """Return when all jobs have an outcome. Raises: BackendError if no worker starts."""
        try:
            while self.waiting or self.running:
                self._hand_out()  # first, so that no worker waits for the disk
                self._tell_outcomes()
                for event in self.executor.wait(POLL_S):
                    self._take(event)
                self._end_overdue()
                self.tick(self)
        finally:
            self.ended = time.monotonic()
            self._tell_outcomes()

    def _hand_out(self) -> None:
        """Fill empty slots and give idle workers their next job."""
        wanted = min(self.count, len(self.waiting) + len(self.running))
        for number in range(self.count):
            if number not in self.slots and len(self.slots) < wanted:
                self.slots[number] = Slot("starting", time.monotonic())
                self.executor.start(number)
        for number, slot in self.slots.items():
            if slot.state == "idle" and self.waiting:
                job = self.waiting.popleft()
                self.attempts[job.key] = self.attempts.get(job.key, 0) + 1
                self.queue_s += time.monotonic() - slot.since
                slot.state, slot.job, slot.since = "busy", job, time.monotonic()
                self.executor.submit(number, self.order_of(job))

    def _take(self, event: Event) -> None:
        slot = self.slots[event.slot]
        if isinstance(event, Ready):
            self.first_ready = self.first_ready or time.monotonic()
            self._failed_starts = 0
            slot.state, slot.worker, slot.since = "idle", event.worker, time.monotonic()
        elif isinstance(event, Ended):
            job, slot.state, slot.job = slot.job, "idle", None
            assert job is not None
            self.queue_s += max(0.0, time.monotonic() - slot.since - event.result.seconds)
            slot.since = time.monotonic()
            self._judge(job, event.result)
        else:
            self._bury(event, slot)

    def _bury(self, event: Died, slot: Slot) -> None:
        """Forget a worker that died, and decide about its asset."""
        del self.slots[event.slot]
        self.deaths += 1
        if slot.job is None:
            self._failed_starts += slot.state == "starting"
            if self._failed_starts >= _STARTS:
                raise BackendError(f"No worker starts: {event.problem} Try --workers 1 --engine processes to see why.")
            return
        said = _said_in(self.order_of(slot.job).folder)
        reason: Reason = "memory" if event.code == OUT_OF_MEMORY or "GB of memory" in said else "killed"
        problem = said if reason == "memory" and said else event.problem
        self._judge(slot.job, self._without_answer(slot, reason, problem))

    def _without_answer(self, slot: Slot, reason: Reason, problem: str) -> Result:
        seconds = round(time.monotonic() - slot.since, 3)
        return Result(reason=reason, problem=problem, seconds=seconds, worker=slot.worker)

    def _judge(self, job: Job, result: Result) -> None:
        """Keep the outcome to be reported, or put the job back to the front of the queue."""
        self.busy_s += result.seconds
        self.spent[job.key] = self.spent.get(job.key, 0.0) + result.seconds
        is_same = result.reason == "crash" and self._crashes.get(job.key) == result.problem  # it would go on like that
        self._crashes[job.key] = result.problem
        if result.reason in AGAIN and not is_same and self.attempts[job.key] <= self.limits.retries:
            self.waiting.appendleft(job)
            return
        whole = replace(result, seconds=round(self.spent[job.key], 3))
        self._outcomes.append(Outcome(job=job, result=whole, attempts=self.attempts[job.key]))

    def _tell_outcomes(self) -> None:
        while self._outcomes:
            self.report(self._outcomes.popleft())

    def _end_overdue(self) -> None:
        """Kill workers whose asset is over its time."""
        limit = self.limits.seconds
        for number, slot in list(self.slots.items()):
            if limit is None or slot.job is None or time.monotonic() - slot.since <= limit:
                continue
            self.executor.kill(number)
            del self.slots[number]
            problem = f"The asset took more than {limit:g} s. Raise --time-limit, or take fewer steps."
            _tell(self.order_of(slot.job).folder, problem)
            self._judge(slot.job, self._without_answer(slot, "time", problem))


def _said_in(folder: Path) -> str:
    """Return the problem that a worker left in run.json, "" if none."""
    info: dict[str, Any] = {}
    with contextlib.suppress(Sds3dError, OSError):
        info = RunFolder(folder).read_info()
    return str(info.get("problem") or "")


def _tell(folder: Path, problem: str) -> None:
    """Write into run.json why the run ended, where there is one."""
    run = RunFolder(folder)
    if run.info_file.is_file():
        with contextlib.suppress(Sds3dError, OSError):
            run.update_info(status="failed", problem=problem)
