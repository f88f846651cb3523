"""One session of a generator's training: a quiet Lightning trainer, checkpoints by the clock, stopping on request."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console

from sds3d.config.generator_load import dump_generator_recipe
from sds3d.export.atomic import write_bytes
from sds3d.generators.about import About, words_of
from sds3d.generators.weights import write_weights
from systems import ranks
from systems.callbacks import StopOnRequest
from systems.checkpoint import write_checkpoint
from systems.generator import GeneratorSystem
from systems.session import Endless, _quiet

CHECKPOINT, WEIGHTS, HISTORY = "last.ckpt", "generator.safetensors", "history.json"
LINES = 20
"""Lines of progress a run prints."""


class GeneratorCheckpoints(Callback):
    """Saves at the start, every so many seconds and at the end; process 0 writes. Prints progress."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.folder, self.console = folder, console
        self.saved_at = self.last = 0.0
        self.first = 0

    def save(self, system: GeneratorSystem) -> None:
        """Write checkpoint and log."""
        if ranks.rank() == 0:
            path = self.folder / CHECKPOINT
            write_checkpoint(path, system.state(), dump_generator_recipe(system.recipe))
            write_bytes(self.folder / HISTORY, json.dumps(system.history, indent=1).encode())
            system.checkpoint = path
        self.saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Save at once, so that a run killed early can go on."""
        self.first, self.last = pl_module.steps_done, time.monotonic()
        self.save(pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the time, show progress, save if it is time."""
        now = time.monotonic()
        pl_module.seconds += now - self.last
        self.last = now
        done, total = pl_module.steps_done, pl_module.core.total_steps
        if pl_module.history and (done % max(1, total // LINES) == 0 or done == total):
            row = pl_module.history[-1]
            text = f"step {done}/{total}  loss {row['loss']:.4g}  {pl_module.seconds / done:.2f} s a step"
            self.console.print(text, markup=False, highlight=False)
        if now - self.saved_at >= pl_module.recipe.training.checkpoint_every_s:
            self.save(pl_module)
        trainer.should_stop = trainer.strategy.reduce_boolean_decision(trainer.should_stop, all=False)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Save the end, or the place where the user stopped."""
        self.save(pl_module)


def train_session(system: GeneratorSystem, folder: Path, console: Console) -> bool:
    """Train to the end and return True, or False if the user stopped it; saved in both cases.

    At the end the trained tensors (their average, if the recipe averages) are in `folder`/generator.safetensors.
    Several processes are started by torchrun; each draws prompts of its own.
    """
    stopping = StopOnRequest(console)
    device = system.core.device.type
    with _quiet():
        trainer = Trainer(
            accelerator=device,
            max_steps=system.core.total_steps - system.steps_done,
            callbacks=[stopping, GeneratorCheckpoints(folder, console)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            **ranks.trainer_settings(device),
        )
        try:
            if not system.is_finished:
                trainer.fit(system, train_dataloaders=Endless())
        except SystemExit as error:  # what Lightning makes of a Ctrl-C that nobody caught
            raise KeyboardInterrupt from error
        finally:
            stopping.release()
    if system.is_finished and ranks.rank() == 0:
        prompts = system.core.prompts
        words = words_of(prompts.batch([number])[0] for number in range(len(prompts)))
        about = About(recipe=system.recipe, base=system.fingerprint, steps=system.steps_done, words=words)
        write_weights(folder / WEIGHTS, about, system.result())
    return system.is_finished
