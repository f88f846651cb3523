"""One session of training: a Lightning trainer that is quiet, single-device and never touches the run by itself."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.environments import LightningEnvironment
from rich.console import Console

from sds3d.run import RunFolder
from systems.base import DistillationSystem
from systems.callbacks import Callback, Checkpoints, Previews, ShowProgress, StopOnRequest


class Endless:
    """An endless supply of empty batches: Lightning wants data, but all draws follow from the number of the step."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


def train(system: DistillationSystem, run: RunFolder, console: Console, watchers: tuple[Callback, ...] = ()) -> bool:
    """Train `system` to the end of its run and return True, or False if the user stopped it; saved in both cases.

    watchers: further callbacks, called first. Raises: DivergenceError at the first value that is not finite; the last
    checkpoint is then the last good one.
    """
    recipe = system.recipe
    progress, stopping = ShowProgress(run, console), StopOnRequest(console)
    callbacks = [*watchers, Previews(recipe, run), progress, stopping, Checkpoints(recipe, run)]
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
    return system.steps_done == system.total_steps


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
