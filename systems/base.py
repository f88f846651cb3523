"""The one training step that all systems share. Importing this module loads Lightning, which takes seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from renderers.base import Render, Renderer
from sds3d.cameras import Cameras, sample_orbit
from sds3d.config import Recipe
from sds3d.errors import DivergenceError
from sds3d.guidance.filters import stop_if_not_finite
from sds3d.guidance.guide import Guidance
from sds3d.priors.base import Prior
from systems.randomness import generator_for

LOGGED_STEPS = 100
"""About how many steps of a run are kept in its metrics."""


class DistillationSystem(LightningModule):
    """An asset (the renderer) that is optimised until a frozen prior likes its pictures.

    Args:
        recipe: what to do; its `training.steps` is the length of the run, which schedules refer to.
        prior: the frozen model. It is not a submodule: checkpoints hold the asset only.
        renderer: owns all trainable parameters.

    `steps_done` counts completed optimiser steps over all sessions of a run. The draws of a step follow from the seed
    and its number alone (`systems.randomness`), so `state` and `restore` need not know of random generators.
    """

    def __init__(self, recipe: Recipe, prior: Prior, renderer: Renderer) -> None:
        super().__init__()
        self.recipe, self.renderer = recipe, renderer
        self.total_steps = recipe.training.steps
        self.guidance = Guidance(prior, recipe.guidance, self.total_steps)
        self.prompt = recipe.prompt.build()
        self.steps_done = 0
        self.history: list[dict[str, float]] = []
        self.checkpoint: Path | None = None
        self._render: Render | None = None
        self._logs: dict[str, Tensor] = {}
        self._optimiser_state: dict[str, Any] | None = None

    # ---- one step

    def losses(self, step: int, device: torch.device | str) -> tuple[Tensor, dict[str, Tensor], Render]:
        """Return the loss of step `step` (0, 1, ...), numbers to log (0-dim, no graph) and the render it came from.

        Raises: DivergenceError naming the first term that is not finite.
        """
        recipe = self.recipe
        generator = generator_for(recipe.seed, "step", step)
        cameras, background = self.draw_views(generator)
        cameras, background = cameras.to(device), background.to(device)
        render = self.renderer(cameras, background)
        loss, logs = self.guidance(render.rgb, self.prompt, cameras, step, generator)
        terms = {"guidance": loss}
        for name, term in self.renderer.regularisers(render):
            weight = recipe.regularisers[name].at(step, self.total_steps) if name in recipe.regularisers else 0.0
            if weight:
                terms[name] = weight * term
        stop_if_not_finite(terms, step)
        total = torch.stack(list(terms.values())).sum()
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in terms.items()}, **logs}, render

    def draw_views(self, generator: torch.Generator) -> tuple[Cameras, Tensor]:
        """Return the cameras of a step and the background [views, 3] behind each, drawn on the CPU."""
        cameras, background = self.recipe.cameras, self.recipe.background
        views = sample_orbit(
            cameras.views, cameras.size, generator, cameras.elevation_deg, cameras.distance, cameras.fov_deg
        )
        is_plain = torch.rand((), generator=generator) < background.random_fraction
        colour = torch.rand(cameras.views, 3, generator=generator)
        return views, torch.where(is_plain, colour, torch.full_like(colour, background.grey))

    # ---- Lightning's hooks, in the order in which a step calls them

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over the renderer's parameter groups, with the moments of `restore` if there are any."""
        settings = self.recipe.optimiser
        groups = self.renderer.parameter_groups(self.learning_rates(self.steps_done))
        optimiser = torch.optim.Adam(groups, betas=settings.betas, eps=settings.eps)
        if self._optimiser_state is not None:
            optimiser.load_state_dict(self._optimiser_state)
            self._optimiser_state = None
        return optimiser

    def learning_rates(self, step: int) -> dict[str, float]:
        """Return the learning rate of each kind of parameter at `step`."""
        rates = self.recipe.optimiser.learning_rates
        return {name: rate.at(step, self.total_steps) for name, rate in rates.items()}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of the next step; `batch` holds nothing, all draws follow from the number of the step."""
        with self._naming_checkpoint():
            loss, self._logs, self._render = self.losses(self.steps_done, self.device)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Set the learning rates of this step; stop before a gradient that is not finite reaches the parameters."""
        rates = self.learning_rates(self.steps_done)
        for group in optimizer.param_groups:
            group["lr"] = rates[group["name"]]
        gradients = {
            f"gradient of {name}": parameter.grad
            for name, parameter in self.renderer.named_parameters()
            if parameter.grad is not None
        }
        if gradients:
            with self._naming_checkpoint():
                stop_if_not_finite(gradients, self.steps_done)

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Take the step, then let the renderer look after its parameters.

        Density control is here and not in `on_train_batch_end`, because Lightning calls that hook of callbacks first:
        a checkpoint written there would lack it.
        """
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert self._render is not None
        raw = getattr(optimizer, "optimizer", optimizer)
        numbers = self.renderer.after_step(self.steps_done, raw, self._render)
        self._render = None  # the graph is not needed any more
        self._record(numbers)
        self.steps_done += 1

    def _record(self, numbers: dict[str, float]) -> None:
        """Keep the numbers of about every hundredth part of the run, of its last step and of density control."""
        every = max(1, self.total_steps // LOGGED_STEPS)
        if numbers or self.steps_done % every == 0 or self.steps_done == self.total_steps - 1:
            names, values = list(self._logs), torch.stack([v.float() for v in self._logs.values()]).tolist()
            self.history.append({"step": self.steps_done, **dict(zip(names, values, strict=True)), **numbers})

    @contextlib.contextmanager
    def _naming_checkpoint(self) -> Iterator[None]:
        """Let an error about a value that is not finite tell which checkpoint is the last good one."""
        try:
            yield
        except DivergenceError as error:
            raise DivergenceError(error.term, error.step, self.checkpoint) from error

    # ---- what a checkpoint holds

    def state(self, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """Return everything a run needs to go on as if it had never stopped; tensors, numbers, texts only.

        Raises: DivergenceError if a parameter is not finite, so that a bad state never replaces a good one.
        """
        parameters = {f"parameter {name}": value.detach() for name, value in self.renderer.named_parameters()}
        with self._naming_checkpoint():
            stop_if_not_finite(parameters, self.steps_done)
        return {
            "step": self.steps_done,
            "seed": self.recipe.seed,
            "renderer": self.renderer.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": list(self.history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; the renderer must have room for it already."""
        self.renderer.load_state_dict(state["renderer"])
        self._optimiser_state = state["optimiser"]
        self.steps_done, self.history = int(state["step"]), list(state["history"])
