"""The trained networks that know how the generator's pictures look, and their optimiser."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.config.generator import GeneratorRecipe
from sds3d.generators.fake import fake_loss
from sds3d.generators.identity import clean_estimate, sid_loss
from sds3d.generators.prompts import PromptBatch
from sds3d.guidance.branches import BASELINE, PROMPTED, SCORE, Point
from sds3d.guidance.guide import Guidance
from sds3d.guidance.times import sample_times
from sds3d.guidance.words import Words
from sds3d.priors.base import Prior
from sds3d.priors.parametrisation import add_noise
from sds3d.priors.score_network import ScoreNetwork
from systems.generator_parallel import average_gradients
from systems.randomness import generator_for

if TYPE_CHECKING:
    from sds3d.guidance.guide import Predictor


@dataclass(frozen=True)
class Sample:
    """Pictures of the generator [N, H, W, C], with their prompts and cameras."""

    pictures: Tensor
    is_latent: bool
    batch: PromptBatch
    cameras: Cameras


class FakeTrainer:
    """One trained score network a teacher, and one AdamW for all. Without networks it does nothing.

    networks: given ones; None: each teacher's own (`Prior.score_network`) where the recipe wants them.
    """

    def __init__(
        self, recipe: GeneratorRecipe, teachers: Sequence[Prior], networks: Sequence[ScoreNetwork] | None
    ) -> None:
        self.recipe, self.teachers, config = recipe, teachers, recipe.fake
        self.networks: list[ScoreNetwork] = list(networks or ())
        if networks is None and config.kind == "adapter":
            self.networks = [
                prior.score_network(config.rank, generator_for(recipe.seed, "score", place))
                for place, prior in enumerate(teachers)
            ]
        parameters = [p for network in self.networks for p in network.parameters()]
        self.optimiser = torch.optim.AdamW(parameters, lr=config.learning_rate) if parameters else None

    @property
    def predictors(self) -> list[Predictor | None]:
        """What answers for each teacher's fake score; None without networks."""
        return [network.predict for network in self.networks] or [None] * len(self.teachers)

    def step(self, sample: Sample, draws: torch.Generator) -> Tensor:
        """Train all networks once on `sample` and return the loss (0-dim, no graph)."""
        assert self.optimiser is not None
        self.optimiser.zero_grad(set_to_none=True)
        losses = []
        for network, prior in zip(self.networks, self.teachers, strict=True):
            words = Words(prior, sample.batch, sample.cameras)  # type: ignore[arg-type]
            latents = latents_of(prior, sample.pictures, sample.is_latent).detach()
            text = words.text(SCORE)
            null = prior.text([prior.null_text]) if self.recipe.fake.dropout else torch.zeros_like(text[:1])
            settings = self.recipe.fake
            losses.append(fake_loss(network, prior, latents, text, null, settings, draws, words.features, words.poses))
        loss = torch.stack(losses).sum()
        loss.backward()
        average_gradients(p for network in self.networks for p in network.parameters())
        self.optimiser.step()
        return loss.detach()

    def identity_loss(
        self,
        place: int,
        sample: Sample,
        guide: Guidance,
        draws: torch.Generator,
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of score identity distillation for one teacher; see `sds3d.generators.identity`.

        Times and guidance scale are those of the teacher's method. The gradient passes through both networks' inputs.
        """
        prior, network, config = self.teachers[place], self.networks[place], guide.config
        clean = latents_of(prior, sample.pictures, sample.is_latent)
        t_min, t_max = (schedule.at(step, guide.total_steps) for schedule in (config.t_min, config.t_max))
        t = sample_times(len(clean), t_min, t_max, prior.num_timesteps, draws, prior.group_views).to(clean.device)
        noise = torch.randn(clean.shape, generator=draws).to(clean.device)
        alpha, sigma = prior.alpha_sigma(t)
        point = Point(add_noise(clean, noise, alpha, sigma), t, alpha, sigma)
        words = Words(prior, sample.batch, sample.cameras)  # type: ignore[arg-type]
        scale = config.guidance_scale.at(step, guide.total_steps)
        with frozen(network):
            real = clean_estimate(prior, words.query(PROMPTED, point), alpha, sigma)
            if scale != 1.0:
                bare = clean_estimate(prior, words.query(BASELINE, point), alpha, sigma)
                real = bare + scale * (real - bare)
            fake = clean_estimate(network, words.query(SCORE, point), alpha, sigma)
            loss = sid_loss(clean, real, fake, self.recipe.sid_alpha)
        return loss, {"distance": (real - fake).detach().square().mean()}

    def state(self) -> dict[str, Any] | None:
        """Return networks and optimiser as plain data; None without networks."""
        if self.optimiser is None:
            return None
        return {"networks": [n.state_dict() for n in self.networks], "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict[str, Any] | None) -> None:
        """Take over what `state` returned."""
        if self.optimiser is None or state is None:
            return
        for network, values in zip(self.networks, state["networks"], strict=True):
            network.load_state_dict(values)
        self.optimiser.load_state_dict(state["optimiser"])


def latents_of(prior: Prior, pictures: Tensor, is_latent: bool) -> Tensor:
    """Return latents [N, C, h, w] of pictures [N, H, W, C]."""
    return pictures.permute(0, 3, 1, 2) if is_latent else prior.encode(pictures)


@contextlib.contextmanager
def frozen(network: torch.nn.Module) -> Iterator[None]:
    """Keep the parameters of `network` out of graphs made inside; its inputs may still carry one."""
    before = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, is_trained in before:
            parameter.requires_grad_(is_trained)
