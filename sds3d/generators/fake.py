"""Who estimates the score of the generator's own pictures: nobody, or a network that is trained beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sds3d.config.generator import FakeConfig
from sds3d.priors.base import Prior, Query, split_like
from sds3d.priors.parametrisation import add_noise, training_target
from sds3d.priors.score_network import ScoreNetwork
from sds3d.schedule import Schedule

if TYPE_CHECKING:
    from sds3d.guidance.guide import Predictor


def guided(network: ScoreNetwork, scale: float, null_text: Tensor) -> Predictor:
    """Return a function that answers queries with the network's classifier-free guided prediction u + s (y - u).

    With scale 1 it is the network itself, asked once. null_text: [1, rows, dim]. So "guidance on both", as SwiftBrush has
    it, is the rule of VSD with this in place of the network.
    """
    if scale == 1.0:
        return network.predict

    def predict(queries: Sequence[Query]) -> list[Tensor]:
        bare = [replace(query, text=null_text.expand_as(query.text).to(query.text)) for query in queries]
        answers = network.predict([*queries, *bare])
        prompted, unprompted = answers[: len(queries)], answers[len(queries) :]
        return [u + scale * (y - u) for y, u in zip(prompted, unprompted, strict=True)]

    return predict


def fake_scale(config: FakeConfig, teacher_scale: Schedule) -> float:
    """Return the guidance scale of the fake network; a teacher's scale that changes counts with its first value."""
    return teacher_scale.values[0] if config.scale_like_teacher else config.scale


def fake_loss(
    network: ScoreNetwork,
    prior: Prior,
    latents: Tensor,
    text: Tensor,
    null_text: Tensor,
    config: FakeConfig,
    draws: torch.Generator,
    camera: Tensor | None = None,
    pose: Tensor | None = None,
) -> Tensor:
    """Return the training loss of `network` on the generator's pictures, detached here: no gradient reaches the generator.

    Mean of w(t) |output - target|^2, times uniform over the whole axis (one a group for priors that look at views together),
    fresh noise, w = 1 or alpha^2 (which turns noise errors into SwiftBrush's), the prompt hidden from a share of samples.

    Args:
        latents: [N, C, h, w]. text: [N, rows, dim]. null_text: [1, rows, dim]. camera, pose: of `Query`.
    Source: Diff-Instruct, SwiftBrush (arXiv 2312.05239), DMD2 (arXiv 2405.14867).
    """
    clean, group = latents.detach(), prior.group_views
    t = torch.randint(0, prior.num_timesteps, (len(clean) // group,), generator=draws).repeat_interleave(group)
    epsilon = torch.randn(clean.shape, generator=draws).to(clean.device)
    hidden = (torch.rand(len(clean), generator=draws) < config.dropout).to(clean.device)
    t = t.to(clean.device)
    alpha, sigma = prior.alpha_sigma(t)
    words = torch.where(hidden[:, None, None], null_text.to(text), text)
    query = Query(z_t=add_noise(clean, epsilon, alpha, sigma), t=t, text=words, camera=camera, pose=pose)
    (output,) = network.output([query])
    error = (output - training_target(clean, epsilon, alpha, sigma, network.parametrisation)).square()
    weight = alpha**2 if config.weight == "alpha2" else torch.ones_like(alpha)
    return (weight * error).mean()


class MlpScore(ScoreNetwork):
    """A score network for points: latents [C, 1, 1], no text. For toys in two dimensions.

    Args: width of its two hidden layers; generator: CPU generator of the first values.
    """

    def __init__(self, prior: Prior, size: int, width: int, generator: torch.Generator) -> None:
        super().__init__(prior)
        self.parametrisation = "epsilon"
        sizes = ((size + 1, width), (width, width), (width, size))
        self.layers = torch.nn.ModuleList(torch.nn.Linear(a, b) for a, b in sizes)
        reseed(self, generator)

    def output(self, queries: Sequence[Query]) -> list[Tensor]:
        """Return the noise it sees."""
        z = torch.cat([query.z_t for query in queries])
        t = torch.cat([query.t for query in queries]).to(z) / self.prior.num_timesteps
        x = torch.cat([z.flatten(1), 2.0 * t[:, None] - 1.0], dim=1)
        for layer in self.layers[:-1]:
            x = torch.nn.functional.silu(layer(x))
        return split_like(self.layers[-1](x).view_as(z), queries)


def reseed(module: torch.nn.Module, generator: torch.Generator) -> None:
    """Draw the weights of linear layers anew from `generator`, N(0, 1 / inputs); biases are 0."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) / layer.in_features**0.5)
                if layer.bias is not None:
                    layer.bias.zero_()
