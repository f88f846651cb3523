"""A generator in training as a LightningModule. Importing this module loads Lightning, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import AssetError, DivergenceError
from sds3d.generators.base import LatentGenerator, load_trained
from sds3d.guidance.filters import stop_if_not_finite
from systems.generator_core import GeneratorCore

LOGGED_ROWS = 2000
"""Rows of the log that a checkpoint keeps."""


class GeneratorSystem(LightningModule):
    """Trains the generator of a `GeneratorCore`, one optimiser step a batch; batches hold nothing.

    What a step draws follows from the seed and its number, so a checkpoint need not know of random generators, and N processes
    take the steps of one that accumulates N times as many batches. Gradients are exchanged once a step, by
    `systems.generator_parallel`, not in the K backward passes: Lightning's own exchange stays off because optimisation is
    manual and the passes do not go through `manual_backward`.
    """

    def __init__(self, core: GeneratorCore, fingerprint: str = "") -> None:
        super().__init__()
        self.automatic_optimization = False
        self.core, self.recipe = core, core.recipe
        self.generator = core.generator
        self.fingerprint = fingerprint
        self.seconds, self.history = 0.0, list[dict[str, float]]()
        self.checkpoint: Path | None = None
        self.newest: dict[str, Tensor] = {}

    @property
    def steps_done(self) -> int:
        """Optimiser steps over all sessions of a run."""
        return self.core.steps_done

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.core.steps_done >= self.core.total_steps

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the generator's optimiser; that of the fake score is stepped beside it."""
        return self.core.optimiser

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """Take one step."""
        try:
            self.newest = self.core.accumulate()
        except DivergenceError as error:
            raise DivergenceError(error.term, error.step, self.checkpoint) from error
        self.optimizers().step()  # type: ignore[union-attr]
        if self.core.steps_done % self.recipe.training.log_every == 0:
            self.record()
        self.core.after_step()

    def record(self) -> None:
        """Keep the numbers of this step; the only place where the host reads them."""
        names = [
            name for name in self.newest if name == "loss" or name.endswith(("gradient_norm", "t_mean", "distance"))
        ]
        values = torch.stack([self.newest[name].float() for name in names]).tolist()
        self.history.append({"step": float(self.core.steps_done), **dict(zip(names, values, strict=True))})
        del self.history[:-LOGGED_ROWS]

    # ---- what a checkpoint holds: adapters only

    def state(self) -> dict[str, Any]:
        """Return what a run needs to go on: trained parameters, their average, optimisers; not the base model.

        Raises: DivergenceError if a parameter is not finite, so that a bad state never replaces a good one.
        """
        trained = {name: value.detach() for name, value in self.generator.trained().items()}
        stop_if_not_finite({f"parameter {name}": value for name, value in trained.items()}, self.core.steps_done)
        return {
            "kind": "generator",
            "step": self.core.steps_done,
            "seconds": self.seconds,
            "base": self.fingerprint,
            "trained": trained,
            "average": self.core.average,
            "optimiser": self.core.optimiser.state_dict(),
            "fake": self.core.fake.state(),
            "history": list(self.history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned. Raises: AssetError if it belongs to another base model."""
        if state.get("kind") != "generator" or state["base"] != self.fingerprint:
            raise AssetError(
                f"The checkpoint belongs to the base '{state.get('base')}', but the recipe's is '{self.fingerprint}'. Use the "
                "model it was trained with, or start anew."
            )
        load_trained(self.generator, state["trained"])
        self.core.average = {name: value.to(self.core.device) for name, value in state["average"].items()}
        self.core.optimiser.load_state_dict(state["optimiser"])
        self.core.fake.restore(state["fake"])
        self.core.steps_done, self.seconds = int(state["step"]), float(state["seconds"])
        self.history = list(state["history"])

    def result(self) -> dict[str, Tensor]:
        """Return the tensors to ship: the average where there is one, else the parameters of now."""
        if self.recipe.optimiser.ema:
            return dict(self.core.average)
        return {name: value.detach() for name, value in self.generator.trained().items()}


def averaged(recipe: GeneratorRecipe, generator: LatentGenerator, average: dict[str, Tensor]) -> None:
    """Put averaged weights into a generator, if the recipe averages."""
    if recipe.optimiser.ema:
        load_trained(generator, average)
