"""The training of a generator, without Lightning: K turns, each rendered, judged by all teachers and back-propagated at once.

Progressive rendering distillation (arXiv 2503.21694), one-step distillation and DMD2's backward simulation are this one loop
with two switches: which turns get a gradient (`recipe.trains`), and who estimates the fake score (`recipe.fake`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from sds3d.cameras import Cameras, sample_orbit
from sds3d.config.generator import GeneratorRecipe
from sds3d.generators.base import Assets, LatentGenerator
from sds3d.generators.diversity import closeness
from sds3d.generators.progress import Turn, run_turns, turn_times
from sds3d.generators.prompts import PromptBatch
from sds3d.guidance.filters import stop_if_not_finite
from sds3d.guidance.guide import Guidance
from sds3d.priors.base import Prior
from sds3d.priors.score_network import ScoreNetwork
from sds3d.prompts import Prompt
from systems.generator_fake import FakeTrainer, Sample
from systems.generator_optimiser import make_optimiser, move_average
from systems.generator_parallel import average_gradients, batch_number, world
from systems.generator_rules import turn_guides
from systems.generator_views import draw_view, regularisers
from systems.randomness import generator_for

TextOf = Callable[[Sequence[str]], Tensor]
Logs = dict[str, Tensor]


class Prompts(Protocol):
    """Where prompts come from: a `PromptFile`, or `PromptList`."""

    def __len__(self) -> int: ...

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """Return some prompts; numbers count round."""

    def fingerprint(self) -> str:
        """Return a short text that changes with the prompts."""


class PromptList:
    """Prompts in memory."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)

    def __len__(self) -> int:
        return len(self.texts)

    def batch(self, numbers: Sequence[int]) -> list[str]:
        """Return some prompts; numbers count round."""
        return [self.texts[number % len(self.texts)] for number in numbers]

    def fingerprint(self) -> str:
        """Return a short text that changes with the prompts."""
        return hashlib.sha256("\n".join(self.texts).encode()).hexdigest()[:16]


class GeneratorCore:
    """Trains `generator` by what `teachers` think of its pictures.

    Args:
        recipe: what to do. `recipe.training.steps` is the length that schedules refer to.
        generator: on its device.
        teachers: the frozen models of `recipe.teachers`, in order.
        text_of: embeddings [n, rows, dim] of texts for the generator.
        prompts: where prompts come from.
        like: settings all prompts share (negative text, words for views); None: none of either.
        fakes: trained score networks, one a teacher; None: made from the teachers where the recipe wants them.
    """

    def __init__(
        self,
        recipe: GeneratorRecipe,
        generator: LatentGenerator,
        teachers: Sequence[Prior],
        text_of: TextOf,
        prompts: Prompts,
        like: Prompt | None = None,
        fakes: Sequence[ScoreNetwork] | None = None,
    ) -> None:
        self.recipe, self.generator, self.teachers = recipe, generator, list(teachers)
        self.text_of, self.prompts = text_of, prompts
        self.like = like or Prompt(text="-", view_dependent=False)
        self.total_steps, self.steps_done = recipe.training.steps, 0
        self.times = turn_times(recipe.turns, len(generator.levels))
        self.fake = FakeTrainer(recipe, self.teachers, fakes)
        self.guides: list[list[Guidance]] = turn_guides(recipe, self.teachers, self.fake.predictors)
        self.optimiser = make_optimiser(recipe.optimiser, list(generator.trained().values()))
        self.average = {name: p.detach().clone() for name, p in generator.trained().items()}
        self._order: tuple[int, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.generator.parameters()).device

    # ---- one optimiser step

    def step(self) -> Logs:
        """Take one step of the generator and those of the fake score that go with it; return what to log."""
        logs = self.accumulate()
        self.optimiser.step()
        self.after_step()
        return logs

    def accumulate(self) -> Logs:
        """Fill the gradients of the generator for the next step; they are the mean over its batches and processes.

        Before the first step the fake score is warmed up.
        """
        if self.steps_done == 0:
            for number in range(self.recipe.fake.warm_up):
                self.train_fake(number - self.recipe.fake.warm_up)
        self.optimiser.zero_grad(set_to_none=True)
        rank, size = world()
        parts = self.recipe.training.accumulate
        logs: Logs = {}
        for part in range(parts):
            logs = self.backward_batch(batch_number(self.steps_done, part, parts, rank, size), 1.0 / parts)
        own = self.generator.trained()
        average_gradients(own.values())
        stop_if_not_finite({f"gradient of {n}": p.grad for n, p in own.items() if p.grad is not None}, self.steps_done)
        if self.recipe.optimiser.clip:
            torch.nn.utils.clip_grad_norm_(list(own.values()), self.recipe.optimiser.clip)
        rate = self.recipe.optimiser.learning_rate.at(self.steps_done, self.total_steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        return logs

    def after_step(self) -> None:
        """Average the weights, let the fake score follow, count the step."""
        move_average(self.average, self.generator.trained(), self.recipe.optimiser.ema)
        for number in range(self.recipe.fake.steps if self.fake.networks else 0):
            self.train_fake(self.steps_done * self.recipe.fake.steps + number)
        self.steps_done += 1

    def backward_batch(self, number: int, share: float) -> Logs:
        """Run all turns of batch `number` and add `share` of its mean gradient over trained turns; return what to log."""
        draws = generator_for(self.recipe.seed, "step", number)
        texts = self.prompts_of(number)
        trained = self.trained_turns(number)
        logs: Logs = {}
        for turn in self.turns(texts, draws, trained):
            if turn.k not in trained:
                continue
            loss, logs = self.turn_loss(turn, texts, draws)
            (loss * (share / len(trained))).backward()  # frees the graph of this turn
        return logs

    def trained_turns(self, number: int) -> set[int]:
        """Return which turns of batch `number` get a gradient: all, or one drawn from the step (the same on all processes)."""
        if self.recipe.trains == "all":
            return set(range(self.recipe.turns))
        step = number // (self.recipe.training.accumulate * world()[1])
        draws = generator_for(self.recipe.seed, "start", step, stage=1)
        return {int(torch.randint(self.recipe.turns, (), generator=draws))}

    def turns(self, texts: Sequence[str], draws: torch.Generator, trained: set[int]) -> Any:
        """Return the turns of a batch of prompts; those after the last trained one are left out."""
        times = self.times[: max(trained, default=self.recipe.turns - 1) + 1]
        text = self.text_of(texts).to(self.device)
        return run_turns(self.generator, text, times, draws, trains=trained.__contains__, renoise=self.recipe.renoise)

    def turn_loss(self, turn: Turn, texts: Sequence[str], draws: torch.Generator) -> tuple[Tensor, Logs]:
        """Return the loss of one turn's objects and what to log. The only place that renders for training."""
        recipe, step, total = self.recipe, self.steps_done, self.total_steps
        assets = self.generator.decode(turn.clean)
        cameras, background = self.draw_cameras(len(texts), draws)
        batch = PromptBatch.of(texts, recipe.cameras.views, self.like)
        terms: Logs = {}
        logs: Logs = {}
        for number, view in enumerate(recipe.views):
            seen = cameras.resized(view.size)
            render = draw_view(view, assets, seen, background, draws, step, total)
            for place, guide in enumerate(self.guides[turn.k]):
                weight = recipe.teachers[place].weight.at(step, total)
                if weight == 0.0:
                    continue
                loss, numbers = self._judge(guide, place, render.rgb, render.is_latent, batch, seen, draws)
                terms[f"view{number}_teacher{place}"] = weight * loss
                logs |= {f"view{number}_teacher{place}_{key}": value for key, value in numbers.items()}
            terms |= {f"view{number}_{k}": v for k, v in regularisers(view, render, step, total).items()}
            if recipe.variety.seeds > 1:
                close = closeness(render.rgb, recipe.variety.seeds, recipe.cameras.views, recipe.variety.distance)
                terms[f"view{number}_variety"] = recipe.variety.weight.at(step, total) * close
        stop_if_not_finite(terms, step)
        loss = torch.stack(list(terms.values())).sum()
        return loss, {"loss": loss.detach(), **{k: v.detach() for k, v in terms.items()}, **logs}

    def _judge(
        self,
        guide: Guidance,
        place: int,
        rgb: Tensor,
        is_latent: bool,
        batch: PromptBatch,
        cameras: Cameras,
        draws: torch.Generator,
    ) -> tuple[Tensor, Logs]:
        """Return the loss of one teacher on pictures [B * V, H, W, C], all of them or one an object."""
        if self.recipe.teachers[place].see == "one" and batch.views > 1:
            batch, chosen = batch.pick(draws)
            chosen = chosen.to(rgb.device)
            rgb, cameras = rgb[chosen], cameras[chosen]
        if self.recipe.loss == "sid":
            sample = Sample(rgb, is_latent, batch, cameras)
            return self.fake.identity_loss(place, sample, guide, draws, self.steps_done)
        return guide(rgb, batch, cameras, self.steps_done, draws, is_latent=is_latent)  # type: ignore[arg-type]

    def draw_cameras(self, objects: int, draws: torch.Generator) -> tuple[Cameras, Tensor]:
        """Return cameras of `objects` objects, evenly around each, and backgrounds [B * V, 3], one an object.

        Objects of one prompt (`recipe.variety.seeds`) are seen from the same places, before the same background.
        """
        settings, background, seeds = self.recipe.cameras, self.recipe.background, self.recipe.variety.seeds
        views, prompts = settings.views, objects // seeds
        cameras = sample_orbit(
            prompts * views, 64, draws, settings.elevation_deg, settings.distance, settings.fov_deg, views
        )
        is_plain = torch.rand(prompts, generator=draws) < background.random_fraction
        colour = torch.rand(prompts, 3, generator=draws)
        colour = torch.where(is_plain[:, None], colour, torch.full_like(colour, background.grey))
        row = torch.arange(prompts * views).view(prompts, 1, views).expand(-1, seeds, -1).flatten()
        return cameras[row].to(self.device), colour[row // views].to(self.device)

    # ---- the fake score

    def train_fake(self, number: int) -> None:
        """Take one step of the fake score networks on fresh pictures of the generator as it is; `number` may be negative."""
        if not self.fake.networks:
            return
        rank, size = world()
        draws = generator_for(self.recipe.seed, "score", abs(number) * size + rank, stage=1 + (number < 0))
        texts = self.prompts_of(abs(number) * size + rank)
        last = int(torch.randint(self.recipe.turns, (), generator=draws))
        assets: Assets | None = None
        with torch.no_grad():
            for turn in self.turns(texts, draws, {last}):
                if turn.k == last:
                    assets = self.generator.decode(turn.clean.detach())
            assert assets is not None
            cameras, background = self.draw_cameras(len(texts), draws)
            batch = PromptBatch.of(texts, self.recipe.cameras.views, self.like)
            view = self.recipe.views[int(torch.randint(len(self.recipe.views), (), generator=draws))]
            seen = cameras.resized(view.size)
            render = draw_view(view, assets, seen, background, draws, self.steps_done, self.total_steps)
        self.fake.step(Sample(render.rgb, render.is_latent, batch, seen), draws)

    # ---- prompts

    def prompts_of(self, number: int) -> list[str]:
        """Return the prompts of batch `number`: every prompt once an epoch, in an order of its own each time."""
        seeds, count = self.recipe.variety.seeds, len(self.prompts)
        size = self.recipe.training.batch // seeds
        places = range(number * size, (number + 1) * size)
        texts = self.prompts.batch([self._shuffled(place // count, place % count) for place in places])
        return [text for text in texts for _ in range(seeds)]

    def _shuffled(self, epoch: int, place: int) -> int:
        if self._order is None or self._order[0] != epoch:
            draws = generator_for(self.recipe.seed, "prior", epoch, stage=1)
            self._order = (epoch, torch.randperm(len(self.prompts), generator=draws))
        return int(self._order[1][place])
