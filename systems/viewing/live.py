"""The page beside a training: a callback that shows the asset between steps. Importing it loads Lightning."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console

from sds3d.config import Recipe
from sds3d.run import RunFolder
from systems.base import DistillationSystem
from systems.viewing.drawing import pull
from systems.viewing.page import Page
from systems.viewing.showing import Showing, formats_of, modes_of
from systems.viewing.words import about, schedules

EVERY_S, SHARE = 1.0, 0.1
"""Least seconds between two updates; the most of the time that updates may take."""
HEIGHT = 192
"""Of pictures drawn for browsers while training, pixels."""


class LiveView(Callback):
    """Shows the asset, the pull of the guidance, curves and schedules; pauses, and fulfils wishes, between two steps.

    Nothing is computed while no browser looks. What is trained does not depend on being watched: pictures are drawn
    without gradients, no random numbers are drawn, and a pause does not count as time of training.
    """

    def __init__(self, run: RunFolder, recipe: Recipe, port: int | None = None) -> None:
        kinds = [stage.renderer.kind for _, stage in recipe.plan()]
        kind = "gaussians" if "gaussians" in kinds else kinds[-1]
        self.run = run
        is_moving = any(stage.motion is not None for _, stage in recipe.plan())
        modes, formats = modes_of(kind, is_moving=is_moving), formats_of(kinds[-1])
        self.page = Page(port, recipe.prompt.text, modes=modes, formats=formats, can_pause=True)
        self.showing: Showing | None = None
        self._due = 0.0
        self._wants_pull = False
        self._since = (0, 0.0)

    def close(self) -> None:
        """End the page."""
        self.page.close()

    # ---- Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say what this stage makes."""
        self._since = (pl_module.steps_done, time.monotonic())
        self.page.describe(about(pl_module.recipe))
        self._due = 0.0

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: Any) -> None:
        """Keep the gradient of the pictures of this step, if the page is to be brought up to date after it."""
        self._wants_pull = self.page.has_visitors and time.monotonic() >= self._due and pl_module._render is not None
        if self._wants_pull and pl_module._render.rgb.requires_grad:
            pl_module._render.rgb.retain_grad()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Show the pictures of this step and where the losses pull them."""
        if self._wants_pull and pl_module._render is not None:
            rgb = pl_module._render.rgb
            self.page.show_pull(pull(rgb, rgb.grad if rgb.requires_grad else None))
        self._wants_pull = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Bring the page up to date if it is time, fulfil wishes, wait while paused."""
        self.showing = Showing(
            page=self.page,
            run=self.run,
            renderer=pl_module.renderer,
            recipe=pl_module.recipe,
            step=pl_module.steps_done,
        )
        if self.page.has_visitors and time.monotonic() >= self._due:
            started = time.monotonic()
            self._read_outs(pl_module, float(outputs["loss"]))
            self.showing.show(HEIGHT, is_new=True)
            spent = time.monotonic() - started
            self._due = time.monotonic() + max(EVERY_S, spent / SHARE)
        self.showing.fulfil()
        if self.page.paused.is_set():
            self._wait(trainer, pl_module, float(outputs["loss"]))

    # ---- parts

    def _read_outs(self, system: DistillationSystem, loss: float) -> None:
        first, started = self._since
        done, total = system.steps_done, system.total_steps
        speed = (done - first) / max(time.monotonic() - started, 1e-9)
        state = {"stage": system.name_of_stage} if system.name_of_stage else {}
        numbers = {"step": f"{done} of {total}", "loss": loss, "steps per second": round(speed, 2)}
        self.page.tell({"state": "paused" if self.page.paused.is_set() else "running", **state, **numbers})
        self.page.show_schedules(schedules(system.recipe, done, total))
        self.page.show_history(system.history)

    def _wait(self, trainer: Trainer, system: DistillationSystem, loss: float) -> None:
        """Serve the page until the training may go on or is to stop; the time does not count."""
        assert self.showing is not None
        started = time.monotonic()
        self._read_outs(system, loss)
        is_new = True
        while self.page.paused.is_set() and not trainer.should_stop:
            self.showing.show(2 * HEIGHT, is_new=is_new)
            self.showing.fulfil()
            is_new = False
            time.sleep(0.03)
        waited = time.monotonic() - started
        system.seconds -= waited  # StopOnTime, which is called later, adds it
        self._since = (self._since[0], self._since[1] + waited)
        self._due = 0.0


@contextlib.contextmanager
def live_view(run: RunFolder, recipe: Recipe, port: int | None, console: Console) -> Iterator[tuple[Callback, ...]]:
    """Open the page of a run and yield the callbacks its training needs; the page ends with the block.

    Raises: BackendError without viser; ConfigError if the port is in use.
    """
    view = LiveView(run, recipe, port)
    console.print(f"Watch it: {view.page.address} (this machine only)", markup=False, highlight=False)
    try:
        yield (view,)
    finally:
        view.close()
