"""Workers as actors of Ray: this machine, or a cluster that runs already."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sds3d
from sds3d.errors import BackendError
from systems.batching.executors import Died, Ended, Event, Executor, Ready, WorkerSettings
from systems.batching.worker import Order, Result, Worker

_STORE_BYTES = 100_000_000
"""Size of Ray's shared memory: orders and results are small."""
_START_S = 300.0
"""What Ray's own processes are given to start; Ray gives 30 s and has no setting for it."""
_OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",  # tells nobody
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # 15 by default: workers would starve beside any other program, as if they hung
    # On a busy machine Ray's agents and workers do not register within the half minute and the minute they have by default.
    "RAY_agent_register_timeout_ms": "300000",
    "RAY_worker_register_timeout_seconds": "300",
}
"""Settings that Ray reads when it is imported; what the user has set is left alone."""
_OF_OUR_OWN = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For a Ray of our own: it listens on 127.0.0.1 alone, as it does elsewhere than on Linux; `_node_ip_address` does not help."""
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
        options: dict[str, Any] = {"num_cpus": settings.threads, "num_gpus": settings.gpus}
        options["max_restarts"] = 0  # we do that, as we know what it was at
        if address is not None:  # a Ray of our own has it from us, which spares a process for each worker
            options["runtime_env"] = {"env_vars": settings.environment}
        self._actors: Any = self._ray.remote(Worker).options(**options)
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


@contextlib.contextmanager
def _environment(settings: WorkerSettings) -> Iterator[None]:
    """Set what workers inherit from a Ray that is started in this block: they find the program where we found it."""
    paths = [str(Path(sds3d.__file__).parents[1]), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    ours: Mapping[str, str] = {**settings.environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _connected(settings: WorkerSettings, count: int, address: str | None) -> Any:
    """Return the module `ray` with a connection."""
    if not is_installed():
        raise BackendError(f"Ray is not installed, which this needs. Run: {_INSTALL}. Without it: --engine processes.")
    for name, value in (_OF_RAY if address else {**_OF_RAY, **_OF_OUR_OWN}).items():
        os.environ.setdefault(name, value)
    import ray

    settings_of_ray: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        settings_of_ray |= {
            "address": "local",
            "num_cpus": max(1, count * settings.threads),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
        }
    try:
        with contextlib.nullcontext() if address else _environment(settings), _patience():
            ray.init(**settings_of_ray)
    # Ray has no class of its own for this: a start that took too long is a bare Exception
    except Exception as error:
        ray.shutdown()
        if address is None:
            _end_children()
        raise BackendError(
            f"Ray does not start (address {address or 'this machine'}): {_said(error)} Check the address, or use "
            "--engine processes."
        ) from error
    _hush()
    return ray


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let Ray wait `_START_S` seconds for its own processes in this block."""
    from ray._private import services

    impatient = getattr(services, "get_node", None)
    if impatient is None:  # another version, which waits as it likes
        yield
        return
    until = time.monotonic() + _START_S

    def get_node(*arguments: Any, **named: Any) -> Any:
        while True:
            try:
                return impatient(*arguments, **named)
            except RuntimeError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = impatient


def _end_children() -> None:
    """End what a start that failed left behind; Ray forgets these processes. There are no others of ours yet."""
    with contextlib.suppress(ImportError):
        import psutil  # comes with Ray

        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if any("/ray/" in part for part in child.cmdline()):
                    child.kill()


def _hush() -> None:
    """Keep Ray from printing a paragraph about every worker that died, in the middle of the table: the index says it."""
    with contextlib.suppress(ImportError):  # Ray has no public switch for this
        import ray._private.worker as private

        private.print_to_stdstream = lambda *_, **__: None  # type: ignore[assignment]


def _said(error: BaseException) -> str:
    """Return an error as one line: Ray's are long, and the cause comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[0][:300] if len(lines) == 1 else f"{lines[0][:300]} ... {lines[-1][:300]}"
