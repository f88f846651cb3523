"""Guidance: which gradient follows from the predictions? One step of any method in the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError
from sds3d.guidance import filters
from sds3d.guidance.branches import Branch, Clock, Draws, Evidence, Point
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.methods import METHODS
from sds3d.guidance.noisers import Noised, Task
from sds3d.guidance.score_training import score_loss
from sds3d.guidance.times import dreamtime, group_size, sample_times, window
from sds3d.guidance.weights import WEIGHTS
from sds3d.guidance.words import Words
from sds3d.priors.base import Prior, Query
from sds3d.priors.parametrisation import epsilon_to_clean
from sds3d.priors.score_network import ScoreNetwork
from sds3d.prompts import Prompt

Predictor = Callable[[Sequence[Query]], list[Tensor]]
Logs = dict[str, Tensor]


class Guidance:
    """A distillation method applied to a prior; owns no renderer, no optimiser and no random state.

    Args:
        prior: the frozen model.
        config: the method and its settings.
        total_steps: length of the run, for schedules with the clock "fraction".
        networks: further networks a method needs, by the name its branches use: functions that answer queries, or a
            `ScoreNetwork`, whose training loss is then part of every step.
    Raises: ConfigError if the method needs a network that is not given.
    """

    def __init__(
        self,
        prior: Prior,
        config: GuidanceConfig,
        total_steps: int,
        networks: Mapping[str, Predictor | ScoreNetwork] | None = None,
    ):
        self.method = METHODS[config.method]
        self.prior, self.config, self.total_steps = prior, config, total_steps
        self.rule, self.noiser = self.method.rule(config), self.method.noiser(config)
        given = networks or {}
        self.score = next((network for network in given.values() if isinstance(network, ScoreNetwork)), None)
        self.networks: dict[str, Predictor] = {
            "base": prior.predict,
            **{name: n.predict if isinstance(n, ScoreNetwork) else n for name, n in given.items()},
        }
        for branch in self.rule.needs:
            if branch.network not in self.networks:
                raise ConfigError(
                    f"Method '{config.method}' needs the network '{branch.network}', but only "
                    f"{', '.join(self.networks)} is given. Pass it to Guidance(networks=...).",
                    path="guidance.method",
                )

    def __call__(
        self,
        rgb: Tensor,
        prompt: Prompt,
        cameras: Cameras,
        step: int,
        generator: torch.Generator,
        source: Tensor | None = None,
        control: Tensor | None = None,
        is_latent: bool = False,
    ) -> tuple[Tensor, Logs]:
        """Return a loss whose gradient in `rgb` is the distillation gradient, and numbers to log.

        The loss is <z0, g> / B with g held fixed ("sum": without 1 / B): its value means nothing, its gradient does.
        With a filter or a term in pixels it is <rgb, g_x> / B, with g_x the gradient in pixels. The training loss of a
        `ScoreNetwork` is added; the two share no parameter that is trained.

        Args:
            rgb: [B, H, W, 3] renders in [0, 1] that carry a graph.
            cameras: the B cameras they were rendered from.
            step: number of the step, from 0.
            generator: CPU generator; timesteps are drawn first, then noise, so that methods can be compared.
            source: [B, H, W, 3] pictures to be edited, for methods that edit.
            control: [B, K, H, W] condition pictures in [0, 1], for priors that take them.
            is_latent: whether `rgb` and `source` hold latents [B, H, W, C] already; they are resized, not encoded.
        Returns: the loss (0-dim) and 0-dim tensors without graph; reading them is what may wait for the device.
        Raises: DivergenceError if a prediction is not finite and the configuration says "stop".
        """
        if len(cameras) != len(rgb):
            raise ShapeError("cameras", f"[{len(rgb)}] (one a render)", (len(cameras),))
        config, clock = self.config, Clock(step, self.total_steps)
        image_weight = config.image_weight.at(step, self.total_steps)
        in_pixels = config.pixel_filter != "none" or image_weight > 0
        leaf = rgb.detach().requires_grad_() if in_pixels else rgb
        z0 = self._latents(leaf, is_latent)
        source_z0 = None if source is None else self._latents(source, is_latent).detach()
        draws = self.draw(z0, step, generator)
        gradient, logs, evidence = self.distil(z0.detach(), prompt, cameras, step, draws, source_z0, control)
        if in_pixels:
            (pixels,) = torch.autograd.grad(z0, leaf, gradient)
            pixels = self._pixels(pixels, rgb.detach(), evidence, image_weight, logs)
            loss = (rgb * pixels).sum()
        else:
            loss = (z0 * gradient).sum()
        loss = loss / len(z0) if config.reduction == "mean" else loss
        if self.score is not None and self.method.trains:
            words = Words(self.prior, prompt, cameras.to(z0.device), control)
            trained, logs["score_loss"] = score_loss(
                self.score, self.prior, config, z0.detach(), words, clock, generator
            )
            loss = loss + trained
        return loss, logs

    def draw(self, z0: Tensor, step: int, generator: torch.Generator) -> Draws:
        """Return timesteps, noise like `z0` and a uniform number for each sample, on the CPU."""
        config = self.config
        t_min, t_max = (schedule.at(step, self.total_steps) for schedule in (config.t_min, config.t_max))
        # Views a prior looks at together share a time, whatever the method says.
        group = 0 if config.shared_t else math.lcm(config.group, self.prior.group_views)
        if config.times == "uniform":
            t = sample_times(len(z0), t_min, t_max, self.prior.num_timesteps, generator, group)
        else:
            t = torch.full((len(z0),), self._dreamtime(step))
        epsilon = torch.randn(z0.shape, generator=generator)
        size = group_size(len(z0), group)
        uniform = torch.rand(len(z0) // size, generator=generator).repeat_interleave(size)
        return Draws(t=t, epsilon=epsilon, uniform=uniform)

    def gradient(
        self,
        z0: Tensor,
        prompt: Prompt,
        cameras: Cameras,
        step: int,
        draws: Draws,
        source: Tensor | None = None,
        control: Tensor | None = None,
    ) -> tuple[Tensor, Logs]:
        """Return the gradient g [B, C, h, w] float32 to be descended in latents `z0`, for given draws, and logs."""
        return self.distil(z0, prompt, cameras, step, draws, source, control)[:2]

    @torch.no_grad()
    def distil(
        self,
        z0: Tensor,
        prompt: Prompt,
        cameras: Cameras,
        step: int,
        draws: Draws,
        source: Tensor | None = None,
        control: Tensor | None = None,
    ) -> tuple[Tensor, Logs, Evidence]:
        """Return gradient, logs and the evidence they follow from; `source` are latents [B, C, h, w]."""
        if source is None and "source picture" in self.method.needs:
            raise ConfigError(
                f"Method '{self.config.method}' edits a picture, but none is given. Pass source= to the guidance, or "
                "choose a method that makes new pictures, for example 'sds'.",
                path="guidance.method",
            )
        self.prior.begin_step(step, self.total_steps)
        last_t = self.prior.num_timesteps - 1 if draws.t.is_meta else int(draws.t.max())
        words = Words(self.prior, prompt, cameras.to(z0.device), control)
        clock = Clock(step, self.total_steps)

        def ask(asked: Mapping[Branch, Point]) -> dict[Branch, Tensor]:
            return self._predict(asked, words, clock)

        on_device = draws.to(z0.device)
        noised = self.noiser.points(
            Task(z0=z0, draws=on_device, prior=self.prior, ask=ask, clock=clock, last_t=last_t, source=source)
        )
        wanted = [b for b in self.rule.wanted(step, self.total_steps) if b not in noised.known]
        predictions = {**noised.known, **(ask({b: noised.points[b.point] for b in wanted}) if wanted else {})}
        evidence = self._evidence(z0, noised, predictions, step, on_device.uniform, source)
        gain = self.config.gain.at(step, self.total_steps)
        gradient = WEIGHTS[self.config.weight](evidence) * self.rule(evidence)
        gradient, replaced = self._filter(gradient if gain == 1.0 else gain * gradient, evidence)
        return gradient, _logs(gradient, replaced, evidence), evidence

    def _evidence(
        self,
        z0: Tensor,
        noised: Noised,
        predictions: dict[Branch, Tensor],
        step: int,
        uniform: Tensor,
        source: Tensor | None,
    ) -> Evidence:
        return Evidence(
            z0=z0,
            epsilon=noised.epsilon,
            points=noised.points,
            predictions=predictions,
            step=step,
            total_steps=self.total_steps,
            guidance_scale=self.config.guidance_scale.at(step, self.total_steps),
            num_timesteps=self.prior.num_timesteps,
            uniform=uniform,
            source=source,
        )

    def _predict(self, asked: Mapping[Branch, Point], words: Words, clock: Clock) -> dict[Branch, Tensor]:
        """Return the prediction of every branch at its point, steered by Perp-Neg; one call a network.

        Branches that amount to the same question (no negative prompt: "u", "n" and "0") are asked once.
        """
        strength = None if self.config.perp_neg is None else self.config.perp_neg.at(clock.step, clock.total)
        steering = words.steering(asked, strength)
        every = {**asked, **steering.extra}
        answers: dict[Branch, Tensor] = {}
        for network in dict.fromkeys(branch.network for branch in every):
            same = {b: words.identity(b) for b in every if b.network == network}
            distinct: dict[object, Branch] = {}
            for branch, key in same.items():
                distinct.setdefault(key, branch)
            queries = [words.query(branch, every[branch], steering.blends) for branch in distinct.values()]
            found = dict(zip(distinct, self.networks[network](queries), strict=True))
            answers.update({branch: found[key] for branch, key in same.items()})
        return {branch: steering.steer(branch, answers) for branch in asked}

    def _filter(self, gradient: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor]:
        """Return the filtered gradient and the number of replaced elements."""
        if self.config.non_finite == "stop":
            predictions = {f"guidance:{branch}": value for branch, value in evidence.predictions.items()}
            terms = {"guidance:z0": evidence.z0, **predictions, "guidance:gradient": gradient}
            filters.stop_if_not_finite(terms, evidence.step)
            replaced = torch.zeros((), dtype=torch.int64, device=gradient.device)
        else:
            gradient, replaced = filters.replace_non_finite(gradient, evidence.step)
        if self.config.clamp is not None:
            gradient = filters.clamp_elements(gradient, self.config.clamp.at(evidence.step, evidence.total_steps))
        return (filters.to_unit_norm(gradient) if self.config.unit_norm else gradient), replaced

    @torch.no_grad()
    def _pixels(self, pixels: Tensor, rgb: Tensor, evidence: Evidence, image_weight: float, logs: Logs) -> Tensor:
        """Return the gradient in pixels [B, H, W, 3]: the image term added, then limited. Adds to `logs`."""
        config = self.config
        if image_weight > 0:
            pixels = pixels + self._image_gradient(rgb, evidence, image_weight)
        limit = config.pixel_limit.at(evidence.step, evidence.total_steps)
        size = filters.pixel_size(pixels, config.pixel_norm)
        logs["clipped_pixels"] = (size > limit).float().mean() if config.pixel_filter != "none" else size.mean() * 0
        return filters.filter_pixels(pixels, config.pixel_filter, limit, config.pixel_norm)

    def _image_gradient(self, rgb: Tensor, evidence: Evidence, weight: float) -> Tensor:
        """Return weight gain w(t) (alpha / sigma) (x - D(x0')) [B, H, W, 3], x0' the guided clean estimate."""
        point = evidence.points[self.rule.clean_point]
        guided = evidence.guided(self.rule.clean_point)
        wanted = self.prior.decode(epsilon_to_clean(guided, point.z, point.alpha, point.sigma)).clamp(0.0, 1.0)
        if wanted.shape != rgb.shape:
            sized = torch.nn.functional.interpolate(wanted.permute(0, 3, 1, 2), rgb.shape[1:3], mode="area")
            wanted = sized.permute(0, 2, 3, 1)
        gain = weight * self.config.gain.at(evidence.step, evidence.total_steps)
        factor = WEIGHTS[self.config.weight](evidence) * evidence.here.alpha / evidence.here.sigma
        return gain * factor.reshape(-1, 1, 1, 1) * (rgb - wanted)

    @cached_property
    def _latent_shape(self) -> tuple[int, int, int]:
        return self.prior.latent_shape()

    def _latents(self, pictures: Tensor, is_latent: bool) -> Tensor:
        """Return z0 [B, C, h, w] of pictures, differentiably. Raises: ShapeError for latents of another model."""
        if not is_latent:
            return self.prior.encode(pictures)
        channels, *size = self._latent_shape
        if pictures.shape[-1] != channels:
            raise ShapeError("the render", f"[B, H, W, {channels}] (latents of this prior)", tuple(pictures.shape))
        z0 = pictures.permute(0, 3, 1, 2)
        if list(z0.shape[2:]) == size:
            return z0
        return torch.nn.functional.interpolate(z0, size, mode="bilinear", antialias=True, align_corners=False)

    def _dreamtime(self, step: int) -> int:
        config, length = self.config, self.prior.num_timesteps
        low, high = window(config.t_min.at(step, self.total_steps), config.t_max.at(step, self.total_steps), length)
        levels = None
        if config.times == "dreamtime-snr":
            alpha, sigma = self.prior.alpha_sigma(torch.arange(length, device=self.prior.device))
            levels = tuple((sigma / alpha).flatten().tolist())
        return dreamtime(step / max(self.total_steps, 1), low, high, levels)


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
