"""One session of training: a Lightning trainer that is quiet and never touches the run by itself."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from rich.console import Console

from sds3d.config import Recipe
from sds3d.run import RunFolder
from systems import ranks
from systems.base import DistillationSystem
from systems.callbacks import Callback, Checkpoints, Previews, ShowProgress, StopOnRequest, StopOnTime
from systems.loggers import close_loggers, log_numbers, open_loggers
from systems.memory_guard import MemoryGuard


class Endless:
    """An endless supply of empty batches: Lightning wants data, but all draws follow from the number of the step."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


class TogetherWithOthers(Callback):
    """Lets the processes that make one asset take the same steps: equal starts, averaged gradients, one end for all.

    It must be the last callback, so that it knows what the others want.
    """

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Begin with the values of the first process: those of others may differ by rounding."""
        ranks.share_values(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """Average the gradients."""
        ranks.average(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop if anyone was asked to, and agree on the time that is over: the longest any process has trained."""
        if pl_module.recipe.training.max_minutes is not None:
            seconds = torch.tensor(pl_module.seconds, device=pl_module.device)
            pl_module.seconds = float(trainer.strategy.reduce(seconds, reduce_op="max"))
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)


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
    guards: list[Callback] = [MemoryGuard(console), StopOnTime()]
    loggers = open_loggers(recipe, run, system.name_of_stage) if ranks.rank() == 0 else []
    guards += [log_numbers()] if loggers else []
    callbacks = [*watchers, *guards, Previews(recipe, run), progress, stopping, saving]
    if ranks.size() > 1:
        ranks.check_spread(recipe)
        callbacks = [*callbacks, TogetherWithOthers()]
    with _quiet():
        trainer = Trainer(
            accelerator=system.guidance.prior.device.type,
            max_steps=system.total_steps - system.steps_done,
            callbacks=callbacks,
            logger=loggers or False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **ranks.trainer_settings(system.guidance.prior.device.type),
        )
        try:
            trainer.fit(system, train_dataloaders=Endless())
        except SystemExit as error:  # what Lightning makes of a Ctrl-C that nobody caught
            raise KeyboardInterrupt from error
        finally:
            progress.stop()
            stopping.release()
            close_loggers(loggers)
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
