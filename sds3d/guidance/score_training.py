"""How the score network of the renders learns: ordinary diffusion training on the present pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sds3d.guidance.branches import PROMPTED, SCORE, Clock, Point
from sds3d.guidance.config import GuidanceConfig
from sds3d.guidance.words import Words
from sds3d.priors.base import Prior, Query
from sds3d.priors.parametrisation import add_noise, epsilon_to_output, training_target

if TYPE_CHECKING:
    from sds3d.guidance.config import ScoreConfig
    from sds3d.priors.score_network import ScoreNetwork


def score_loss(
    network: ScoreNetwork,
    prior: Prior,
    config: GuidanceConfig,
    z0: Tensor,
    words: Words,
    clock: Clock,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return the weighted training loss of `network` on latents `z0`, and the bare loss without a graph.

    The loss is the mean of |output - target|^2 at times uniform over the whole axis, whatever window the gradient
    uses, with fresh noise, the prompt without view words, and the camera hidden from a share of the samples. With an
    adversarial weight g the mean of g |output - y|^2 is added, y the frozen prior's prediction at the same points.

    Args:
        z0: [B, C, h, w] latents of the renders, without a graph: training must not reach the render.
        generator: CPU generator; draws times, noise, and who sees its camera.

    Source: ProlificDreamer (arXiv 2305.16213), thu-ml/prolificdreamer; adversarial: arXiv 2312.00739. Deviations: each
    sample (each group, for priors that look at views together) decides by itself whether it knows its camera (there: the
    whole batch at once); both adversarial terms are in the form of the network's output, so that their sum has a minimum
    for g > -1 in every parametrisation.
    """
    settings: ScoreConfig = config.score  # type: ignore[attr-defined]
    size = prior.group_views  # views seen together share a time, and all or none of them know their camera
    groups = len(z0) // size
    t = torch.randint(0, prior.num_timesteps, (groups,), generator=generator).repeat_interleave(size).to(z0.device)
    epsilon = torch.randn(z0.shape, generator=generator).to(z0.device)
    hidden = torch.rand(groups, generator=generator) < settings.camera_dropout
    hidden = hidden.repeat_interleave(size).to(z0.device)
    alpha, sigma = prior.alpha_sigma(t)
    point = Point(add_noise(z0, epsilon, alpha, sigma), t, alpha, sigma)
    (output,) = network.output([_without_camera(words.query(SCORE, point), hidden)])
    target = training_target(z0, epsilon, alpha, sigma, network.parametrisation)
    loss = (output - target).square().mean()
    adversarial = getattr(config, "adversarial_weight", 0.0)
    if adversarial:
        (prompted,) = prior.predict([words.query(PROMPTED, point)])
        wanted = epsilon_to_output(prompted, point.z, alpha, sigma, network.parametrisation)
        loss = loss + adversarial * (output - wanted).square().mean()
    return settings.weight.at(clock.step, clock.total) * loss, loss.detach()


def _without_camera(query: Query, hidden: Tensor) -> Query:
    """Return the query with the cameras of the samples `hidden` [B] set to zeros, which mean "no camera"."""

    def masked(features: Tensor | None) -> Tensor | None:
        return None if features is None else torch.where(hidden[:, None], torch.zeros_like(features), features)

    return replace(query, camera=masked(query.camera), pose=masked(query.pose))
