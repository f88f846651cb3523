"""The folder of a batch: where index, gallery and runs are, and the locks that keep two sessions apart."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from sds3d.errors import AssetError
from sds3d.run import RunFolder

WAIT_FOR_WORKERS_S = 60.0
"""How long a session waits for workers of one that was killed; they end by themselves within a second or two."""


@dataclass(frozen=True)
class BatchFolder:
    """The paths of one batch.

    runs/<prompt>-<hash>/ is a run folder like any other; failures/ holds what a program error said.
    """

    path: Path

    @property
    def info_file(self) -> Path:
        """What was asked for, and the numbers of the last session."""
        return self.path / "batch.json"

    @property
    def gallery(self) -> Path:
        """The page of all assets."""
        return self.path / "gallery.html"

    @property
    def runs(self) -> Path:
        """Folder of the runs."""
        return self.path / "runs"

    @property
    def failures(self) -> Path:
        """Folder of texts about errors of the program."""
        return self.path / "failures"

    @property
    def workers_lock(self) -> Path:
        """File that every worker holds a lock on as long as it lives."""
        return self.path / ".workers.lock"

    def run(self, name: str) -> RunFolder:
        """Return the run folder of the job called `name`."""
        return RunFolder(self.runs / name)

    def open(self, is_resumed: bool) -> None:
        """Make the folder, or check that a batch is there to be resumed. Raises: AssetError."""
        is_used = self.path.is_dir() and any(self.path.iterdir())
        if is_used and not self.info_file.is_file():
            raise AssetError(
                f"The output folder '{self.path}' is used and holds no batch. Give --out a new or empty folder.",
                self.path,
            )
        if is_used and not is_resumed:
            raise AssetError(
                f"The output folder '{self.path}' holds a batch already. Add --resume to make what is missing there, or "
                "give --out a new or empty folder.",
                self.path,
            )
        try:
            self.runs.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise AssetError(
                f"The output folder '{self.path}' cannot be written: {reason}. Give --out a writable folder.", self.path
            ) from error

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other sessions out, and wait until the workers of a killed one are gone. Raises: AssetError."""
        with (self.path / ".lock").open("a") as own:
            if not _lock(own, shared=False):
                raise AssetError(
                    f"Another session is working on the batch '{self.path}'. Wait until it ends, or stop it.", self.path
                )
            with self.workers_lock.open("a") as workers:
                waited_until = time.monotonic() + WAIT_FOR_WORKERS_S
                while not _lock(workers, shared=False):
                    if time.monotonic() > waited_until:
                        raise AssetError(
                            f"Workers of an earlier session still write to '{self.path}'. Stop them, then try again.",
                            self.path,
                        )
                    time.sleep(0.1)
            yield


def hold(lock: Path) -> IO[Any]:
    """Return the open file `lock` with a shared lock on it; it ends with the file, or with the process."""
    file = lock.open("a")
    _lock(file, shared=True)
    return file


def _lock(file: IO[Any], shared: bool) -> bool:
    """Lock without waiting and return whether that worked; systems and disks without such locks count as unlocked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return True
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
