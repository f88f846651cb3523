"""A program for the tests: the verb `batch` whose workers write a small file instead of training.

    python light_batch.py PROMPTS [OPTIONS]

Every start and end of an asset is a line of made.log in the folder of the batch. Some prompts misbehave, see `LightWorker`.
A child process runs this file again before it begins, so that it has the same workers.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from sds3d.errors import AssetError
from sds3d.run import RunFolder
from systems.batching import batch, processes, ray_workers
from systems.batching.worker import Worker, worker_name

SECONDS = float(os.environ.get("LIGHT_SECONDS", "0.05"))


class Outcome:
    def __init__(self, files: list[Path]) -> None:
        self.files, self.interrupted = files, False


class LightWorker(Worker):
    """Makes `export/asset.txt` in two steps, the first of which counts as a checkpoint."""

    def warm_up(self) -> str:
        return worker_name()

    def make_asset(self, recipe: Any, run: RunFolder, console: Any, is_begun: bool) -> Any:
        prompt = recipe.prompt.text
        _log(run, "resume" if is_begun else "start")
        if not run.last_checkpoint.is_file():
            time.sleep(SECONDS / 2)
            run.checkpoints.mkdir(exist_ok=True)
            run.last_checkpoint.write_text("half")
            if prompt == "dies once":
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(SECONDS / 2)
        _misbehave(prompt, run)
        run.export.mkdir(exist_ok=True)
        (run.export / "asset.txt").write_text(f"{prompt} {recipe.seed}")
        run.update_metrics(seed=recipe.seed, judge={"noun_accuracy": len(prompt) / 100, "views": 8})
        _log(run, "end")
        return Outcome([run.export / "asset.txt"])


def _log(run: RunFolder, what: str) -> None:
    with (run.path.parent.parent / "made.log").open("a") as file:
        file.write(f"{what} {run.path.name} {os.getpid()}\n")


def _misbehave(prompt: str, run: RunFolder) -> None:
    """Do what the prompt says, before the asset is there."""
    if prompt == "dies always":
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == "takes long":
        time.sleep(600)
    if prompt == "eats memory":
        eaten = b"x" * 600_000_000
        time.sleep(600 + eaten[0])
    if prompt == "finds a fault":
        raise RuntimeError("a fault of the program")
    if prompt == "is refused":
        raise AssetError("The file\n'x' is not there. Give another.")
    if prompt == "writes much":
        run.export.mkdir(exist_ok=True)
        (run.export / "much.bin").write_bytes(bytes(20_000_000))
    if prompt == "fills the disk":
        raise OSError(errno.ENOSPC, "No space left on device")


processes.Worker = LightWorker  # type: ignore[misc]
ray_workers.Worker = LightWorker  # type: ignore[misc]
processes.CLOSING_S = 1.0
if os.environ.get("LIGHT_PAGE"):
    batch.PAGE_EVERY_S = 0.0

if __name__ == "__main__":
    import typer

    import launch
    from systems.batching.verb import batch_command

    launch.app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    launch.app.command()(batch_command)
    sys.exit(launch.execute(sys.argv[1:]))
