"""Where the time of a run went, added up over its sessions in run.json."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from sds3d.run import RunFolder


class Clock:
    """Adds the seconds of named parts, the trained steps and the peak memory to `run`'s run.json."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the seconds of the block under times.<name>_s, also if it ends in an error."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._add(f"{name}_s", time.monotonic() - started)

    def steps(self, count: int) -> None:
        """Count trained steps."""
        self._add("steps", count)

    def _add(self, name: str, amount: float) -> None:
        times = dict(self.run.read_info().get("times", {})) if self.run.info_file.exists() else {}
        times[name] = round(times.get(name, 0) + amount, 2)
        self.run.update_info(times=times, peak_memory_gb=peak_memory_gb())


def peak_memory_gb() -> float | None:
    """Return the most memory this process has held, in gigabytes, or None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1024**3 if sys.platform == "darwin" else 1024**2
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)
