"""The one training step that all systems share. Importing this module loads Lightning, which takes seconds."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from renderers.base import Render, Renderer
from sds3d.cameras import Cameras, sample_orbit
from sds3d.clip_times import frame_times
from sds3d.config import Recipe
from sds3d.errors import DivergenceError
from sds3d.guidance.clips import ClipGuidance
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.filters import stop_if_not_finite
from sds3d.guidance.guide import Guidance
from sds3d.guidance.table.trained import TrainedConfig
from sds3d.priors.base import Prior
from sds3d.priors.video.base import VideoPrior
from sds3d.prompts import Prompt
from systems.clip_views import clip_guidance, draw_clip_views
from systems.randomness import generator_for
from systems.score import ScoreOptimiser

LOGGED_STEPS = 100
"""About how many steps of a run are kept in its metrics."""


def prompt_of(recipe: Recipe) -> Prompt:
    """Return the prompt of `recipe`, debiased if it says so (which loads a language model)."""
    prompt = recipe.prompt.build()
    if recipe.prompt.debias:
        from sds3d.debias import debiased

        return debiased(prompt, recipe.prompt.debias, recipe.prompt.debias_words)
    return prompt


class DistillationSystem(LightningModule):
    """An asset (the renderer) that is optimised until a frozen prior likes its pictures.

    Args:
        recipe: what to do; its `training.steps` is the length of the run, which schedules refer to.
        prior: the frozen model. It is not a submodule: checkpoints hold the asset only.
        renderer: the asset; owns its trainable parameters.
        others: further assets made for the same prompt ("particles"). The assets take turns, one a step; a trained
            score network is shared by all.
        more_priors: the models of `recipe.also`, in order; their guidance is added.
        source: the asset as it was before editing, for methods that edit; never trained.
        stage: the number of the stage in a run of several, from 0; its draws are unrelated to those of the others.
        name_of_stage: its name, "" where there is only one.

    `steps_done` counts completed optimiser steps over all sessions of a run. The draws of a step follow from the seed
    and its number alone (`systems.randomness`), so `state` and `restore` need not know of random generators.
    """

    def __init__(
        self,
        recipe: Recipe,
        prior: Prior,
        renderer: Renderer,
        *,
        others: Sequence[Renderer] = (),
        more_priors: Sequence[Prior] = (),
        source: Renderer | None = None,
        stage: int = 0,
        name_of_stage: str = "",
    ) -> None:
        super().__init__()
        self.stage, self.name_of_stage = stage, name_of_stage
        self.recipe, self.renderer, self.others = recipe, renderer, nn.ModuleList(others)
        self.total_steps = recipe.training.steps
        configs = (recipe.guidance, *(extra.guidance for extra in recipe.also))
        self.guides = [
            self._guide(model, config, number)
            for number, (model, config) in enumerate(zip((prior, *more_priors), configs, strict=True))
        ]
        self.guidance = self.guides[0]
        self.scores = ScoreOptimiser(self.guides)
        self.prompt = prompt_of(recipe)
        self._source = (source,)  # in a tuple: it is no part of the asset
        self.steps_done = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.checkpoint: Path | None = None
        self._render: Render | None = None
        self._logs: dict[str, Tensor] = {}
        self._optimiser_state: dict[str, Any] | None = None

    def _guide(self, prior: Prior | VideoPrior, config: GuidanceConfig, number: int) -> Guidance | ClipGuidance:
        """Return the method `config` applied to `prior`, with a score network of its own if it needs one.

        Raises: ConfigError if the prior looks at clips and nothing moves, or does not take so many frames.
        """
        if isinstance(prior, VideoPrior):
            return clip_guidance(prior, config, self.recipe)
        networks = {}
        if isinstance(config, TrainedConfig):
            generator = generator_for(self.recipe.seed, "score", number, self.stage)
            networks["psi"] = prior.score_network(config.score.rank, generator)
        return Guidance(prior, config, self.total_steps, networks)

    @property
    def assets(self) -> list[Renderer]:
        """All assets of the run, `renderer` first."""
        return [self.renderer, *self.others]  # type: ignore[list-item]

    def asset_of(self, step: int) -> Renderer:
        """Return the asset whose turn it is at `step`."""
        return self.assets[step % len(self.assets)]

    @property
    def label(self) -> str:
        """What progress puts in front of the numbers of this stage."""
        return f"{self.name_of_stage}: " if self.name_of_stage else ""

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done, or the time that the recipe gives is over."""
        limit = self.recipe.training.max_minutes
        return self.steps_done >= self.total_steps or (limit is not None and self.seconds >= 60 * limit)

    def size_at(self, step: int) -> int:
        """Return the side of the training images at `step`, pixels."""
        return round(self.recipe.cameras.size.at(step, self.total_steps))

    # ---- one step

    def losses(self, step: int, device: torch.device | str) -> tuple[Tensor, dict[str, Tensor], Render]:
        """Return the loss of step `step` (0, 1, ...), numbers to log (0-dim, no graph) and the render it came from.

        Raises: DivergenceError naming the first term that is not finite.
        """
        recipe = self.recipe
        generator = generator_for(recipe.seed, "step", step, self.stage, self.global_rank)
        motion, size = recipe.motion, self.size_at(step)
        views = self.draw_views(generator, size) if motion is None else draw_clip_views(recipe, generator, size, step)
        cameras, background = views[0].to(device), views[1].to(device)
        renderer = self.asset_of(step)
        times = () if motion is None else (frame_times(motion.frames, motion.loop),)
        render = renderer(cameras, background, *times)
        terms, logs = self._guidance_terms(render, cameras, background, step, generator)
        for name, term in renderer.regularisers(render):
            weight = recipe.regularisers[name].at(step, self.total_steps) if name in recipe.regularisers else 0.0
            if weight:
                terms[name] = weight * term
        stop_if_not_finite(terms, step)
        total = torch.stack(list(terms.values())).sum()
        return total, {"loss": total.detach(), **{k: v.detach() for k, v in terms.items()}, **logs}, render

    def _guidance_terms(
        self, render: Render, cameras: Cameras, background: Tensor, step: int, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the loss of every guidance, weighted, and what they log."""
        pictures = None
        if self._source[0] is not None:
            with torch.no_grad():
                pictures = self._source[0](cameras, background).rgb
        terms: dict[str, Tensor] = {}
        logs: dict[str, Tensor] = {}
        for number, guide in enumerate(self.guides):
            if isinstance(guide, ClipGuidance):
                clips = render.rgb.unflatten(0, (-1, guide.frames))
                loss, numbers = guide(clips, self.prompt, cameras, step, generator)
            else:
                control = render.extras.get("control") if guide.prior.control_channels else None
                loss, numbers = guide(
                    render.rgb, self.prompt, cameras, step, generator, pictures, control, is_latent=render.is_latent
                )
            name = f"guidance{number + 1}" if number else "guidance"
            weight = self.recipe.also[number - 1].weight.at(step, self.total_steps) if number else 1.0
            terms[name] = weight * loss if number else loss
            logs |= {f"{name}_{key}" if number else key: value for key, value in numbers.items()}
        return terms, logs

    def draw_views(self, generator: torch.Generator, size: int) -> tuple[Cameras, Tensor]:
        """Return the cameras of a step with `size` pixels, and the background [views, 3] behind each, drawn on the CPU."""
        cameras, background = self.recipe.cameras, self.recipe.background
        groups = [guide.prior.group_views for guide in self.guides if not isinstance(guide, ClipGuidance)]
        group = max(groups)  # views of one object have one background, too
        views = sample_orbit(
            cameras.views, size, generator, cameras.elevation_deg, cameras.distance, cameras.fov_deg, group
        )
        is_plain = torch.rand((), generator=generator) < background.random_fraction
        colour = torch.rand(cameras.views // group, 3, generator=generator).repeat_interleave(group, dim=0)
        return views, torch.where(is_plain, colour, torch.full_like(colour, background.grey))

    # ---- Lightning's hooks, in the order in which a step calls them

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over the renderer's parameter groups, with the moments of `restore` if there are any."""
        settings = self.recipe.optimiser
        rates = self.learning_rates(self.steps_done)
        groups = [group for renderer in self.assets for group in renderer.parameter_groups(rates)]
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
            for name, parameter in self.asset_of(self.steps_done).named_parameters()
            if parameter.grad is not None
        }
        gradients |= self.scores.gradients()
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
        self.scores.step(self.steps_done, self.total_steps)
        raw = getattr(optimizer, "optimizer", optimizer)
        turn = self.steps_done // len(self.assets)  # each asset counts its own steps
        numbers = self.asset_of(self.steps_done).after_step(turn, raw, self._render)
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
        parameters = {
            f"parameter {name}": value.detach()
            for owner in (*self.assets, *(guide.score for guide in self.scores.guides))
            for name, value in owner.named_parameters()  # type: ignore[union-attr]
        }
        with self._naming_checkpoint():
            stop_if_not_finite(parameters, self.steps_done)
        return {
            "stage": self.stage,
            "step": self.steps_done,
            "seconds": self.seconds,
            "seed": self.recipe.seed,
            "renderer": self.renderer.state_dict(),
            "others": [other.state_dict() for other in self.others],
            "optimiser": optimiser.state_dict(),
            "score": self.scores.state(),
            "history": list(self.history),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned; the renderers must have room for it already."""
        self.renderer.load_state_dict(state["renderer"])
        for other, values in zip(self.others, state.get("others", ()), strict=True):
            other.load_state_dict(values)
        self.scores.restore(state.get("score"))
        self._optimiser_state = state["optimiser"]
        self.steps_done, self.history = int(state["step"]), list(state["history"])
        self.seconds = float(state.get("seconds", 0.0))
