"""Guidance: which gradient follows from the prior's predictions? One step of any method in the table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError
from sds3d.guidance import filters
from sds3d.guidance.branches import Branch, Evidence, Point
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.methods import METHODS
from sds3d.guidance.times import sample_times
from sds3d.guidance.weights import WEIGHTS
from sds3d.priors.base import Prior, Query
from sds3d.prompts import Prompt

Predictor = Callable[[Sequence[Query]], list[Tensor]]
Logs = dict[str, Tensor]


class Guidance:
    """A distillation method applied to a prior; owns no renderer, no optimiser and no random state.

    Args:
        prior: the frozen model.
        config: the method and its settings.
        total_steps: length of the run, for schedules with the clock "fraction".
        networks: further networks a method needs, by the name its branches use.
    Raises: ConfigError if the method needs a network that is not given.
    """

    def __init__(
        self,
        prior: Prior,
        config: GuidanceConfig,
        total_steps: int,
        networks: Mapping[str, Predictor] | None = None,
    ):
        method = METHODS[config.method]
        self.prior, self.config, self.total_steps = prior, config, total_steps
        self.rule, self.noiser = method.rule(config), method.noiser()
        self.networks: dict[str, Predictor] = {"base": prior.predict, **(networks or {})}
        for branch in self.rule.needs:
            if branch.network not in self.networks:
                raise ConfigError(
                    f"Method '{config.method}' needs the network '{branch.network}', but only "
                    f"{', '.join(self.networks)} is given. Pass it to Guidance(networks=...).",
                    path="guidance.method",
                )

    def __call__(
        self, rgb: Tensor, prompt: Prompt, cameras: Cameras, step: int, generator: torch.Generator
    ) -> tuple[Tensor, Logs]:
        """Return a loss whose gradient in `rgb` is the distillation gradient, and numbers to log.

        The loss is <z0, g> / B with g held fixed ("sum": without 1 / B): its value means nothing, its gradient does.

        Args:
            rgb: [B, H, W, 3] renders in [0, 1] that carry a graph.
            cameras: the B cameras they were rendered from.
            step: number of the step, from 0.
            generator: CPU generator; timesteps are drawn first, then noise, so that methods can be compared.
        Returns: the loss (0-dim) and 0-dim tensors without graph; reading them is what may wait for the device.
        Raises: DivergenceError if a prediction is not finite and the configuration says "stop".
        """
        if len(cameras) != len(rgb):
            raise ShapeError("cameras", f"[{len(rgb)}] (one a render)", (len(cameras),))
        z0 = self.prior.encode(rgb)
        t, epsilon = self.draw(z0, step, generator)
        gradient, logs = self.gradient(z0.detach(), prompt, cameras, step, t, epsilon)
        loss = (z0 * gradient).sum()
        return (loss / len(z0) if self.config.reduction == "mean" else loss), logs

    def draw(self, z0: Tensor, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return timesteps [B] int64 and noise like `z0`, drawn on the CPU so that every device sees the same."""
        t_min, t_max = (s.at(step, self.total_steps) for s in (self.config.t_min, self.config.t_max))
        group = 0 if self.config.shared_t else self.config.group
        t = sample_times(len(z0), t_min, t_max, self.prior.num_timesteps, generator, group)
        epsilon = torch.randn(z0.shape, generator=generator)
        return t.to(z0.device), epsilon.to(z0.device)

    @torch.no_grad()
    def gradient(
        self, z0: Tensor, prompt: Prompt, cameras: Cameras, step: int, t: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Logs]:
        """Return the gradient g [B, C, h, w] float32 to be descended in latents `z0`, for given `t` and `epsilon`."""
        cameras = cameras.to(z0.device)
        words = _Words(self.prior, prompt, cameras)
        noised = self.noiser.points(
            z0, t, epsilon, self.prior, lambda branch, point: self._predict({branch: point}, words)[branch]
        )
        predictions = self._predict({branch: noised.points[branch.point] for branch in self.rule.needs}, words)
        evidence = Evidence(
            z0=z0,
            epsilon=noised.epsilon,
            points=noised.points,
            predictions=predictions,
            step=step,
            total_steps=self.total_steps,
            guidance_scale=self.config.guidance_scale.at(step, self.total_steps),
        )
        gradient = WEIGHTS[self.config.weight](evidence) * self.rule(evidence)
        gradient, replaced = self._filter(gradient, evidence)
        return gradient, _logs(gradient, replaced, evidence)

    def _predict(self, asked: Mapping[Branch, Point], words: _Words) -> dict[Branch, Tensor]:
        """Return the prediction of every branch at its point; one call a network."""
        answers: dict[Branch, Tensor] = {}
        for network in dict.fromkeys(branch.network for branch in asked):
            branches = [branch for branch in asked if branch.network == network]
            queries = [words.query(branch, asked[branch]) for branch in branches]
            answers.update(zip(branches, self.networks[network](queries), strict=True))
        return {branch: answers[branch] for branch in asked}

    def _filter(self, gradient: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Return the filtered gradient and the number of replaced elements."""
        if self.config.non_finite == "stop":
            predictions = {f"guidance:{branch}": value for branch, value in evidence.predictions.items()}
            terms = {"guidance:z0": evidence.z0, **predictions, "guidance:gradient": gradient}
            filters.stop_if_not_finite(terms, evidence.step)
            replaced = torch.zeros((), dtype=torch.int64, device=gradient.device)
        else:
            gradient, replaced = filters.replace_non_finite(gradient)
        if self.config.clamp is not None:
            gradient = filters.clamp_elements(gradient, self.config.clamp.at(evidence.step, evidence.total_steps))
        return (filters.to_unit_norm(gradient) if self.config.unit_norm else gradient), replaced


class _Words:
    """The texts and camera features of one step; makes the query of a branch."""

    def __init__(self, prior: Prior, prompt: Prompt, cameras: Cameras):
        self.prior, self.prompt, self.cameras = prior, prompt, cameras
        self.features = prior.camera_features(cameras)

    def query(self, branch: Branch, point: Point) -> Query:
        """Return the query of `branch` at `point`: each sample with the text that holds from its camera."""
        embeddings = self.prior.text(self.prompt.texts(branch.text))
        index = self.prompt.index(self.cameras.azimuth_deg, self.cameras.elevation_deg, branch.text)
        camera = self.features if branch.camera else None
        return Query(z_t=point.z, t=point.t, text=embeddings[index], camera=camera)


def _logs(gradient: Tensor, replaced: Tensor, evidence: Evidence) -> Logs:
    """Return 0-dim tensors: mean time, mean gradient length of a sample, size of each prediction, replaced elements."""
    logs = {
        "t_mean": evidence.here.t.float().mean(),
        "gradient_norm": gradient.flatten(1).norm(dim=1).mean(),
        "non_finite": replaced,
    }
    for branch, prediction in evidence.predictions.items():
        logs[f"rms_{branch}"] = prediction.square().mean().sqrt()
    return logs
