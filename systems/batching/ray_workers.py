"""Workers as actors of Ray: this machine, or a cluster that runs already."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import sds3d
from sds3d.errors import BackendError
from systems.batching.executors import Died, Ended, Event, Executor, Ready, WorkerSettings
from systems.batching.worker import Order, Result, Worker

_STORE_BYTES = 100_000_000
"""Size of Ray's shared memory: orders and results are small."""
_ATTEMPTS = 2
"""Ray gives its own processes 30 s to start, which a busy machine may not keep."""
_INSTALL = "pip install 'sds3d[batch]' (or: pip install ray)"


def is_installed() -> bool:
    """Return whether Ray is there, without importing it."""
    return importlib.util.find_spec("ray") is not None


class RayWorkers(Executor):
    """Each worker is an actor with threads and cards of its own, which Ray places where they are free.

    Args:
        settings: what every worker is given.
        count: how many workers there will be; a Ray of our own is started with room for just these.
        address: a running cluster ("auto", "ray://host:port", "host:port"), or None to start Ray on this machine.
    Raises: BackendError if Ray is not installed or the cluster does not answer.
    Limits: on a cluster the program must be installed on every machine, and the output folder be on a shared disk.
    """

    def __init__(self, settings: WorkerSettings, count: int, address: str | None = None) -> None:
        self.settings = settings
        self._ray = _connected(settings, count, address)
        remote = self._ray.remote(Worker)
        self._actors: Any = remote.options(
            num_cpus=settings.threads,
            num_gpus=settings.gpus,
            max_restarts=0,  # we do that, as we know what it was at
            runtime_env={"env_vars": _environment(settings, address)},
        )
        self._workers: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}

    def room(self) -> int:
        """Return how many workers the machines have room for now."""
        found = self._ray.cluster_resources()
        limits = [found.get("CPU", 1) / self.settings.threads]
        if self.settings.gpus:
            limits.append(found.get("GPU", 0) / self.settings.gpus)
        return max(1, int(min(limits)))

    def start(self, slot: int) -> None:
        """Start an actor."""
        self._workers[slot] = self._actors.remote(self.settings.lock, self.settings.memory_gb)
        self._waiting[self._workers[slot].warm_up.remote()] = slot

    def submit(self, slot: int, order: Order) -> None:
        """Call the actor."""
        self._waiting[self._workers[slot].carry_out.remote(order)] = slot

    def wait(self, seconds: float) -> list[Event]:
        """Return what has happened."""
        if not self._waiting:
            return []
        found, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=seconds)
        return [self._event(reference) for reference in found]

    def _event(self, reference: Any) -> Event:
        slot = self._waiting.pop(reference)
        try:
            message: str | Result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            self._drop(slot)
            return Died(slot, f"The worker died: {_said(error)}")
        return Ended(slot, message) if isinstance(message, Result) else Ready(slot, message)

    def kill(self, slot: int) -> None:
        """End the actor's process."""
        self._drop(slot)

    def _drop(self, slot: int) -> None:
        self._ray.kill(self._workers.pop(slot), no_restart=True)
        self._waiting = {reference: other for reference, other in self._waiting.items() if other != slot}

    def close(self) -> None:
        """End all actors, and Ray if we started it; runs keep their last checkpoint."""
        for slot in list(self._workers):
            self._drop(slot)
        self._ray.shutdown()


def _environment(settings: WorkerSettings, address: str | None) -> dict[str, str]:
    """Return the variables of an actor; on this machine it finds the program where we found it, installed or not."""
    if address is not None:
        return settings.environment
    paths = [str(Path(sds3d.__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**settings.environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _connected(settings: WorkerSettings, count: int, address: str | None) -> Any:
    """Return the module `ray` with a connection."""
    if not is_installed():
        raise BackendError(f"Ray is not installed, which this needs. Run: {_INSTALL}. Without it: --engine processes.")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # tells nobody
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    settings_of_ray: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        settings_of_ray |= {
            "address": "local",
            "num_cpus": max(1, count * settings.threads),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_node_ip_address": "127.0.0.1",  # this machine only
        }
    for attempt in range(_ATTEMPTS):
        try:
            ray.init(**settings_of_ray)
            return ray
        except (
            Exception
        ) as error:  # Ray has no class of its own for this: a start that took too long is a bare Exception
            ray.shutdown()
            if attempt == _ATTEMPTS - 1:
                raise BackendError(
                    f"Ray does not start (address {address or 'this machine'}): {_said(error)} Check the address, or use "
                    "--engine processes."
                ) from error


def _said(error: BaseException) -> str:
    """Return an error as one line: Ray's are long, and the cause comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300] if len(lines) == 1 else f"{lines[0][:300]} ... {lines[-1][:300]}"
