"""Where workers live: an interface, and the events that come back from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from systems.batching.worker import Order, Result


@dataclass(frozen=True)
class Ready:
    """The worker in `slot` has started and takes orders."""

    slot: int
    worker: str


@dataclass(frozen=True)
class Ended:
    """The worker in `slot` has answered its order and takes the next."""

    slot: int
    result: Result


@dataclass(frozen=True)
class Died:
    """The worker in `slot` is gone; `code` is its exit code where that is known (negative: a signal)."""

    slot: int
    problem: str
    code: int | None = None


Event = Ready | Ended | Died


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """What every worker of a batch is given.

    Args:
        lock: file that it holds a lock on as long as it lives.
        threads: CPU threads it may use.
        gpus: cards, or a share of one, it gets.
        memory_gb: most memory it may hold, None for no limit.
    """

    lock: Path
    threads: int = 1
    gpus: float = 0.0
    memory_gb: float | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What libraries read about threads when they are imported."""
        names = ("OMP", "MKL", "OPENBLAS", "NUMBA", "NUMEXPR", "VECLIB_MAXIMUM")
        return {f"{name}_NUM_THREADS": str(self.threads) for name in names} | {"OMP_WAIT_POLICY": "PASSIVE"}


class Executor(ABC):
    """A number of slots with a worker each. One order at a time is given to a worker that is ready."""

    @abstractmethod
    def start(self, slot: int) -> None:
        """Begin to start a worker in an empty slot; `Ready` or `Died` follows."""

    @abstractmethod
    def submit(self, slot: int, order: Order) -> None:
        """Give the worker its next order; `Ended` or `Died` follows."""

    @abstractmethod
    def wait(self, seconds: float) -> list[Event]:
        """Return what has happened, after `seconds` at the latest."""

    @abstractmethod
    def kill(self, slot: int) -> None:
        """End the worker at once; its slot is empty then, and no event of it follows."""

    @abstractmethod
    def close(self) -> None:
        """End all workers; those that are at work save what they have, if they can do so in a few seconds."""
