"""What ends a worker from inside: too much memory, or a session that is gone."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from sds3d.run import RunFolder

EVERY_S = 0.5
OUT_OF_MEMORY = 77
"""Exit code of a worker that used more memory than it may."""


def memory_gb() -> float | None:
    """Return the memory this process holds now (resident), in gigabytes, or None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return round(pages * os.sysconf("SC_PAGE_SIZE") / 1024**3, 3)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


class MemoryCap:
    """Ends this process if it holds more than `limit_gb` while it works on a run, and says so in the run's run.json.

    Limits: looks twice a second, and only where the system tells (Linux); memory of a card is not counted.
    """

    def __init__(self, limit_gb: float | None) -> None:
        self.limit_gb = limit_gb
        self.run: RunFolder | None = None
        if limit_gb is not None:
            threading.Thread(target=self._watch, name="memory-cap", daemon=True).start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_S):
            held, limit = memory_gb(), self.limit_gb
            if self.run is not None and held is not None and limit is not None and held > limit:
                self._end(self.run, held, limit)

    def _end(self, run: RunFolder, held: float, limit: float) -> None:
        with contextlib.suppress(Exception):  # whatever else is wrong, the process must end
            run.update_info(status="failed", problem=said(held, limit))
        os._exit(OUT_OF_MEMORY)


def said(held: float, limit: float) -> str:
    """Return the reason a worker over its cap leaves behind."""
    return (
        f"The worker held {held:.2f} GB of memory, but {limit:g} GB are allowed. Raise --memory, or take smaller images, "
        "fewer views or --overlay lowmem."
    )


def end_with_parent(parent: int) -> None:
    """End this process within a second if its parent, process `parent`, is gone: nobody would take its results."""

    def watch() -> None:
        pause = threading.Event()
        while not pause.wait(EVERY_S):
            if os.getppid() != parent:
                os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
