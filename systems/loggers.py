"""The numbers of a training for TensorBoard and Weights & Biases, through Lightning's loggers. Off unless a recipe says so.

Nothing leaves the machine: Weights & Biases is kept offline (`wandb sync` sends it later), unless WANDB_MODE says "online".
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sds3d.config import Recipe
from sds3d.errors import BackendError
from sds3d.run import RunFolder

if TYPE_CHECKING:
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.loggers import Logger

FOLDER = "logs"
PROJECT = "sds3d"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}
"""The package each logger needs."""


def check_loggers(recipe: Recipe) -> None:
    """Raise BackendError if a logger of any stage is not installed; imports nothing."""
    for _, stage in recipe.plan():
        for name in stage.training.loggers:
            if find_spec(PACKAGES[name]) is None:
                raise BackendError(
                    f"training.loggers asks for '{name}', but the package {PACKAGES[name]} is not installed: "
                    f"pip install {PACKAGES[name]}, or leave it out (training.loggers=[])."
                )


def open_loggers(recipe: Recipe, run: RunFolder, stage: str = "") -> list[Logger]:
    """Return the loggers of one stage, writing below logs/ of the run. Raises: BackendError if one is not installed."""
    check_loggers(recipe)
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    loggers = [makers[name](run, stage, recipe) for name in dict.fromkeys(recipe.training.loggers)]
    for logger in loggers:
        logger.log_hyperparams({**recipe.model_dump(mode="json", exclude={"stages"}), "stage": stage})
    return loggers


def _tensorboard(run: RunFolder, stage: str, recipe: Recipe) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(_folder(run), name="tensorboard", version=stage, default_hp_metric=False)


def _wandb(run: RunFolder, stage: str, recipe: Recipe) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    is_online = os.environ.get("WANDB_MODE", "offline") == "online"
    place = f"{run.path.resolve()}/{stage}"  # a resumed run goes on where it was
    return WandbLogger(
        project=PROJECT,
        name=f"{recipe.prompt.text[:100]} {stage}".strip(),
        id=hashlib.sha256(place.encode()).hexdigest()[:16],
        save_dir=_folder(run),
        offline=not is_online,
        log_model=False,
    )


def _folder(run: RunFolder) -> Path:
    folder = run.path / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def close_loggers(loggers: Sequence[Logger]) -> None:
    """End the processes that loggers started; Lightning has had them write what was left."""
    for logger in loggers:
        finish = getattr(getattr(logger, "experiment", None), "finish", None)
        if finish is not None:
            finish()


def log_numbers() -> Callback:
    """Return the callback that hands the rows of the system's history to the trainer's loggers, each row once."""
    from lightning.pytorch import Callback

    class LogNumbers(Callback):
        """Counts the rows that were logged."""

        logged = 0

        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            """Begin behind the rows of an earlier session."""
            self.logged = len(pl_module.history)

        def on_train_batch_end(
            self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """Log the rows that are new."""
            for row in pl_module.history[self.logged :]:
                numbers = {name: value for name, value in row.items() if name != "step"}
                for logger in trainer.loggers:
                    logger.log_metrics(numbers, step=int(row["step"]))
            self.logged = len(pl_module.history)

    return LogNumbers()
