"""The queue with workers that exist on paper only: order, retries, limits, and that nothing is done twice."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sds3d.errors import BackendError
from systems.batching.dispatch import Dispatcher, Limits, Outcome
from systems.batching.executors import Died, Ended, Event, Executor, Ready, WorkerSettings
from systems.batching.jobs import Job
from systems.batching.processes import Processes
from systems.batching.worker import Order, Result


class Paper(Executor):
    """Workers that answer at the next look; `answers` says what an asset does at each attempt, else it is done.

    An answer is a reason, "dies", or "sleeps" for one that never comes.
    """

    def __init__(self, answers: dict[str, list[str]], draws: random.Random | None = None) -> None:
        self.answers, self.draws = {key: list(value) for key, value in answers.items()}, draws
        self.starting: set[int] = set()
        self.busy: dict[int, str] = {}
        self.idle: set[int] = set()
        self.log: list[str] = []
        self.closed = False

    def start(self, slot: int) -> None:
        assert slot not in self.idle and slot not in self.busy and slot not in self.starting
        self.starting.add(slot)

    def submit(self, slot: int, order: Order) -> None:
        self.idle.remove(slot)
        self.busy[slot] = order.folder.name
        self.log.append(order.folder.name)

    def wait(self, seconds: float) -> list[Event]:
        events: list[Event] = []
        for slot in sorted(self.starting):
            self.starting.discard(slot)
            self.idle.add(slot)
            events.append(Ready(slot, f"paper-{slot}"))
        for slot, name in list(self.busy.items()):
            if self.draws is not None and self.draws.random() < 0.3:
                continue  # not yet
            answer = self.answers.get(name, [])
            said = answer.pop(0) if answer else ""
            if said == "sleeps":
                continue
            del self.busy[slot]
            if said == "dies":
                events.append(Died(slot, "The worker was ended by SIGKILL.", -9))
            else:
                self.idle.add(slot)
                events.append(Ended(slot, Result(reason=said, problem=said and f"it was {said}", seconds=1.0)))  # type: ignore[arg-type]
        return events

    def kill(self, slot: int) -> None:
        del self.busy[slot]

    def close(self) -> None:
        self.closed = True


def carried_out(
    answers: dict[str, list[str]],
    names: list[str],
    count: int = 2,
    limits: Limits | None = None,
    seed: int | None = None,
) -> tuple[dict[str, tuple[str, int]], Paper, Dispatcher]:
    """Return (reason, attempts) of each job, the executor and the dispatcher."""
    executor = Paper(answers, None if seed is None else random.Random(seed))
    outcomes: list[Outcome] = []
    recipe: Any = None
    dispatcher = Dispatcher(
        executor,
        [Job(key=name, recipe=recipe, lines=(1,)) for name in names],
        count,
        limits or Limits(retries=2),
        lambda job: Order(folder=Path("nowhere") / job.key, recipe=recipe, failures=Path("nowhere")),
        outcomes.append,
    )
    dispatcher.run()
    found = {outcome.job.key: (outcome.result.reason, outcome.attempts) for outcome in outcomes}
    assert len(found) == len(outcomes) == len(names), "each job has one outcome"
    return found, executor, dispatcher  # type: ignore[return-value]


def test_failures_are_tried_again_if_that_may_help() -> None:
    answers = {
        "dies once": ["dies"],
        "dies": ["dies"] * 9,
        "crashes": ["crash"] * 9,
        "memory": ["memory", "dies"],
        "error": ["error"] * 9,
    }
    found, executor, dispatcher = carried_out(answers, [*answers, "good"])
    assert found == {
        "dies once": ("", 2),
        "dies": ("killed", 3),
        "crashes": ("crash", 2),  # the same fault again: it would go on like that
        "memory": ("", 3),
        "error": ("error", 1),
        "good": ("", 1),
    }
    assert dispatcher.deaths == 5 and Counter(executor.log)["good"] == 1


def test_what_takes_too_long_is_ended_and_the_worker_replaced() -> None:
    found, executor, dispatcher = carried_out({"slow": ["sleeps"] * 10**6}, ["slow", "a", "b"], 1, Limits(seconds=0.02))
    assert found == {"slow": ("time", 1), "a": ("", 1), "b": ("", 1)}
    assert executor.log == ["slow", "a", "b"] and dispatcher.deaths == 0


@pytest.mark.parametrize("seed", range(5))
def test_random_deaths_lose_nothing(seed: int) -> None:
    draws = random.Random(seed)
    names = [f"asset-{number}" for number in range(60)]
    answers = {name: ["dies"] * draws.choice([0, 0, 0, 1, 2]) for name in names}
    found, executor, _ = carried_out(answers, names, 4, seed=seed)
    assert all(reason == "" for reason, _ in found.values())
    expected = {name: 1 + len(given) for name, given in answers.items()}
    assert Counter(executor.log) == expected


def test_no_more_workers_than_assets() -> None:
    _, executor, dispatcher = carried_out({}, ["a"], 8)
    assert dispatcher.count == 1 and executor.idle == {0}


def test_workers_that_never_start_end_the_batch() -> None:
    class Broken(Paper):
        def wait(self, seconds: float) -> list[Event]:
            return [Died(slot, "The worker ended with exit code 1.") for slot in list(self.starting)[:1]]

        def start(self, slot: int) -> None:
            self.starting = {slot}

    job: Any = Job(key="a", recipe=None, lines=(1,))  # type: ignore[arg-type]
    dispatcher = Dispatcher(Broken({}), [job], 1, Limits(), lambda job: None, lambda outcome: None)  # type: ignore
    with pytest.raises(BackendError, match="No worker starts: The worker ended with exit code 1"):
        dispatcher.run()


def test_workers_share_processors_and_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WorkerSettings(lock=tmp_path / "lock", threads=3, gpus=0.5)
    assert {settings.environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "NUMBA")} == {"3"}
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    cards = [Processes(settings)._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert cards == ["0", "0", "1", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    whole = Processes(WorkerSettings(lock=tmp_path / "lock", gpus=1.0))
    assert [whole._environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(3)] == ["4", "6", "7"]
    assert "CUDA_VISIBLE_DEVICES" not in Processes(WorkerSettings(lock=tmp_path / "lock"))._environment(0)


def test_what_the_queue_costs_is_what_no_asset_took(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Paper):
        """Every look takes 1.25 s, of which an asset has 1."""

        now = 10.0

        def wait(self, seconds: float) -> list[Event]:
            Slow.now += 1.25
            return super().wait(seconds)

    monkeypatch.setattr("systems.batching.dispatch.time", SimpleNamespace(monotonic=lambda: Slow.now))
    jobs = [Job(key=name, recipe=None, lines=(1,)) for name in "abc"]  # type: ignore[arg-type]
    order = Order(folder=Path("nowhere"), recipe=None, failures=Path("nowhere"))  # type: ignore[arg-type]
    dispatcher = Dispatcher(Slow({}), jobs, 1, Limits(), lambda _: order, lambda _: None)
    dispatcher.run()
    assert dispatcher.queue_s == pytest.approx(3 * 0.25) and dispatcher.busy_s == 3.0
