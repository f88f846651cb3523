"""Before images grow: one rehearsal, so that a run does not die of memory where it could go on in smaller pieces."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from rich.console import Console

from renderers.base import Renderer
from sds3d.errors import BackendError
from systems.base import DistillationSystem


class MemoryGuard(Callback):
    """Tries a whole step, forward and backward, at the first size of images and whenever they become larger.

    If memory does not suffice, the renderer draws in smaller pieces (`Renderer.use_less_memory`) until it does. The
    rehearsal changes nothing else, so a run with and without it is the same. Renderers that cannot draw in pieces are
    left alone.
    """

    def __init__(self, console: Console) -> None:
        self.console, self.tried = console, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Rehearse if the images of this step are larger than any before."""
        size = pl_module.size_at(pl_module.steps_done)
        if size > self.tried and not pl_module.is_finished:
            self.tried = size
            rehearse(pl_module, self.console)


def rehearse(system: DistillationSystem, console: Console) -> None:
    """Take a step without its optimiser, in smaller and smaller pieces until it fits.

    Raises: BackendError if it does not fit in the smallest pieces either, saying what would need less.
    """
    renderer = system.asset_of(system.steps_done)
    if type(renderer).use_less_memory is Renderer.use_less_memory:
        return
    size = system.size_at(system.steps_done)
    while not _fits(system):
        if not renderer.use_less_memory():
            raise BackendError(
                f"A step with {system.recipe.cameras.views} images of {size} pixels does not fit into memory, even in "
                "the smallest pieces. Lower cameras.size or cameras.views, or add --overlay lowmem."
            )
        console.print(f"Images of {size} pixels do not fit into memory: drawing in smaller pieces.", markup=False)


def _fits(system: DistillationSystem) -> bool:
    """Return whether the next step has enough memory; gradients are gone afterwards."""
    try:
        loss, _, _ = system.losses(system.steps_done, system.device)
        loss.backward()
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        system.zero_grad()
        for guide in system.scores.guides:
            guide.score.zero_grad()  # type: ignore[union-attr]
        if system.device.type == "cuda":
            torch.cuda.empty_cache()
    return True


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory is used up, on a card or on the CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return "out of memory" in text or "not enough memory" in text or "can't allocate memory" in text
