"""One session of training: a Lightning trainer that is quiet, single-device and never touches the run by itself."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from sds3d.config import Recipe
from sds3d.run import RunFolder
from systems.base import DistillationSystem
from systems.callbacks import Callback, Checkpoints, Previews, ShowProgress, StopOnRequest, StopOnTime
from systems.memory_guard import MemoryGuard


class Endless:
    """An endless supply of empty batches: Lightning wants data, but all draws follow from the number of the step."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def train(
    system: DistillationSystem,
    run: RunFolder,
    console: Console,
    watchers: tuple[Callback, ...] = (),
    whole: Recipe | None = None,
) -> bool:
    """Train `system` to the end of its stage and return True, or False if the user stopped it; saved in both cases.

    Args:
        watchers: further callbacks, called first.
        whole: the recipe of the run, where `system` is one stage of it; checkpoints hold it.
    Raises: DivergenceError at the first value that is not finite; the last checkpoint is then the last good one.
    """
    if system.is_finished:
        return True
    recipe = system.recipe
    progress, stopping = ShowProgress(run, console), StopOnRequest(console)
    saving = Checkpoints(whole or recipe, run, recipe.training.checkpoint_every_s)
    guards = [MemoryGuard(console), StopOnTime()]
    callbacks = [*watchers, *guards, Previews(recipe, run), progress, stopping, saving]
    with _quiet():
        trainer = Trainer(
            accelerator=system.guidance.prior.device.type,
            devices=1,
            max_steps=system.total_steps - system.steps_done,
            callbacks=callbacks,
            plugins=[LightningEnvironment()],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
        )
        try:
            trainer.fit(system, train_dataloaders=Endless())
        except SystemExit as error:  # what Lightning makes of a Ctrl-C that nobody caught
            raise KeyboardInterrupt from error
        finally:
            progress.stop()
            stopping.release()
    return system.is_finished


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advertisements and its warnings about choices that are ours, not the user's."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
