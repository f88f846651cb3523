"""What happens around the steps of a run: checkpoints by the clock, previews, stopping on request, progress."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from renderers.dynamic import DynamicRenderer
from sds3d.cameras import turntable
from sds3d.config import Recipe, dump_recipe
from sds3d.export.images import write_png
from sds3d.run import RunFolder
from systems.base import DistillationSystem
from systems.checkpoint import write_checkpoint
from systems.moving_files import some_frames
from systems.pictures import film
from systems.stopping import StopRequest

PREVIEW_VIEWS, PREVIEW_SIZE = 4, 128
PLAIN_LINES = 20
"""Lines of progress a whole run prints where there is no terminal."""


class Checkpoints(Callback):
    """Saves the run at its start, every `training.checkpoint_every_s` seconds, at its end and when it is stopped.

    `recipe` is that of the whole run, all stages included; the end of a named stage is kept in a file of its own.
    Every hook used here runs when a step is complete, density control included.
    """

    def __init__(self, recipe: Recipe, run: RunFolder, every_s: float) -> None:
        self.recipe, self.run, self.every_s, self.saved_at = recipe, run, every_s, 0.0

    def save(self, trainer: Trainer, system: DistillationSystem) -> None:
        """Write the state of the run to its last checkpoint."""
        path = self.run.last_checkpoint
        state, text = system.state(trainer.optimizers[0]), dump_recipe(self.recipe)
        if self.recipe.stages and system.is_finished:
            write_checkpoint(
                self.run.stage_checkpoint(system.stage, list(self.recipe.stages)[system.stage]), state, text
            )
        write_checkpoint(path, state, text)
        system.checkpoint, self.saved_at = path, time.monotonic()

    def is_due(self) -> bool:
        """Return whether the last save is as long ago as the recipe allows."""
        return time.monotonic() - self.saved_at >= self.every_s

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Save at once, so that even a run that is killed early can be resumed."""
        self.save(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save if it is time."""
        if self.is_due():
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the end, or the place where the user stopped it; not reached after an error."""
        self.save(trainer, pl_module)


class Previews(Callback):
    """Writes a strip of views of the asset every `training.preview_every` steps; of one that moves, a strip of frames."""

    def __init__(self, recipe: Recipe, run: RunFolder) -> None:
        self.recipe, self.run = recipe, run
        cameras = recipe.cameras
        self.cameras = turntable(
            PREVIEW_VIEWS, PREVIEW_SIZE, distance=sum(cameras.distance) / 2, fov_deg=cameras.fov_deg
        )

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write a preview if it is time."""
        every, step = self.recipe.training.preview_every, pl_module.steps_done
        if every and step % every == 0:
            if isinstance(pl_module.renderer, DynamicRenderer):
                pictures = some_frames(pl_module.renderer, self.recipe, PREVIEW_SIZE)
            else:
                pictures = film(pl_module.renderer, self.cameras, self.recipe.background.grey)
            write_png(self.run.preview(step, pl_module.name_of_stage), np.concatenate(list(pictures), axis=1))


class StopOnTime(Callback):
    """Counts the seconds of training, over all sessions of a run, and ends the stage when the recipe's are over."""

    def __init__(self) -> None:
        self.last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self.last = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the step that has just ended."""
        now = time.monotonic()
        pl_module.seconds += now - self.last
        self.last = now
        if pl_module.is_finished:
            trainer.should_stop = True


class StopOnRequest(Callback):
    """Ctrl-C and SIGTERM end the run after the present step, saved whole; a second Ctrl-C ends it at once.

    `requested` says whether that happened.
    """

    def __init__(self, console: Console) -> None:
        self.console, self._request = console, StopRequest()
        self.release = self._request.release

    @property
    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return self._request.is_made

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Take over the signals; later than Lightning, which would end the process without saving."""
        self._request.listen(lambda: setattr(trainer, "should_stop", True))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Say that the request was heard."""
        if self.requested:
            self.console.print(f"Stopping after step {pl_module.steps_done}, saving ...", markup=False)


class ShowProgress(Callback):
    """A live bar in a terminal, about twenty plain lines elsewhere: loss, speed, time left, newest preview."""

    def __init__(self, run: RunFolder, console: Console) -> None:
        self.run, self.console = run, console
        self.bar: Progress | None = None
        self._is_first = True
        self.first_step, self.started = 0, 0.0  # the place and time speed is measured from

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock and the bar."""
        self.first_step, self.started = pl_module.steps_done, time.monotonic()
        if self.console.is_terminal:
            if pl_module.recipe.training.preview_every:
                self.console.print(f"Previews appear in {self.run.previews}", markup=False)
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self.bar = Progress(*columns, console=self.console, transient=False)
            self.bar.add_task(f"{pl_module.label}starting", total=pl_module.total_steps, completed=pl_module.steps_done)
            self.bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Show the step that has just ended."""
        step, total = pl_module.steps_done, pl_module.total_steps
        speed = (step - self.first_step) / max(time.monotonic() - self.started, 1e-9)
        if self._is_first:  # it compiles kernels and says nothing about the others
            self.first_step, self.started, self._is_first = step, time.monotonic(), False
        if self.bar is None and step % max(1, total // PLAIN_LINES) and step != total:
            return
        text = f"{pl_module.label}loss {float(outputs['loss']):.4g}  {speed:.2f} steps/s"
        preview = self._preview(pl_module)
        if self.bar is not None:  # just the name: a long path would squeeze the bar away
            name = preview.name if preview else ""
            self.bar.update(self.bar.task_ids[0], completed=step, description=f"{text}  {name}")
        else:
            left = round((total - step) / speed)
            line = f"step {step}/{total}  {text}  {left // 60}:{left % 60:02d} left  {preview or ''}"
            self.console.print(line.rstrip(), markup=False, soft_wrap=True)

    def stop(self) -> None:
        """End the bar, whatever the reason."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    def _preview(self, system: DistillationSystem) -> Path | None:
        every = system.recipe.training.preview_every
        newest = system.steps_done // every * every if every else 0
        return self.run.preview(newest, system.name_of_stage) if newest else None
