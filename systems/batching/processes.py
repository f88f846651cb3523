"""Workers as processes of this machine. Needs nothing beyond Python, so it is also the way without Ray."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from systems.batching.executors import Died, Ended, Event, Executor, Ready, WorkerSettings
from systems.batching.guards import OUT_OF_MEMORY, end_with_parent
from systems.batching.worker import Order, Result, Worker

CLOSING_S = 15.0
"""Time workers have to save when the session ends."""


@dataclass(frozen=True)
class _Child:
    process: BaseProcess
    connection: Connection


class Processes(Executor):
    """Each worker is a fresh Python process, which dies with this one."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self._context = multiprocessing.get_context("spawn")  # a fork would share threads and CUDA with its parent
        self._children: dict[int, _Child] = {}

    def start(self, slot: int) -> None:
        """Start a process."""
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self.settings, self._environment(slot), os.getpid())
        process = self._context.Process(target=_serve, args=arguments, name=f"worker-{slot}", daemon=True)
        process.start()
        theirs.close()
        self._children[slot] = _Child(process, ours)

    def _environment(self, slot: int) -> dict[str, str]:
        environment = self.settings.environment
        if self.settings.gpus:
            cards = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            first = int(slot * self.settings.gpus)
            chosen = range(first, first + max(1, round(self.settings.gpus)))
            names = [cards[card] if card < len(cards) and cards[0] else str(card) for card in chosen]
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(names)
        return environment

    def submit(self, slot: int, order: Order) -> None:
        """Send the order; a worker that died meanwhile is noticed by `wait`."""
        with contextlib.suppress(OSError):
            self._children[slot].connection.send(order)

    def wait(self, seconds: float) -> list[Event]:
        """Return what has happened."""
        by_connection = {child.connection: slot for slot, child in self._children.items()}
        if not by_connection:
            return []
        return [self._event(by_connection[found]) for found in wait(list(by_connection), seconds)]  # type: ignore[index]

    def _event(self, slot: int) -> Event:
        child = self._children[slot]
        try:
            message: str | Result = child.connection.recv()
        except (EOFError, OSError):
            child.process.join(10)
            code = child.process.exitcode
            self._forget(slot)
            return Died(slot, _said(code), code)
        return Ended(slot, message) if isinstance(message, Result) else Ready(slot, message)

    def kill(self, slot: int) -> None:
        """Send SIGKILL."""
        self._children[slot].process.kill()
        self._forget(slot)

    def _forget(self, slot: int) -> None:
        child = self._children.pop(slot)
        child.connection.close()
        child.process.join(10)

    def close(self) -> None:
        """Ask the processes to stop, then end those that did not."""
        for child in self._children.values():
            child.process.terminate()
            child.connection.close()
        for child in self._children.values():
            child.process.join(CLOSING_S)
            if child.process.is_alive():
                child.process.kill()
                child.process.join(10)
        self._children.clear()


def _said(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        return f"The worker was ended by {name}."
    return "The worker used too much memory." if code == OUT_OF_MEMORY else f"The worker ended with exit code {code}."


def _serve(connection: Connection, settings: WorkerSettings, environment: Mapping[str, str], parent: int) -> None:
    """Run in the new process: answer orders until the other end is closed."""
    os.environ.update(environment)  # before anything that reads it is imported
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the session decides
    end_with_parent(parent)
    worker = Worker(settings.lock, settings.memory_gb)
    with contextlib.suppress(EOFError, OSError):
        connection.send(worker.warm_up())
        while True:
            connection.send(worker.carry_out(connection.recv()))
