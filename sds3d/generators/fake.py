"""Who estimates the score of the generator's own pictures: nobody, or a network that is trained beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from sds3d.config.generator import FakeConfig
from sds3d.guidance.branches import SCORE, UNPROMPTED, Branch, Evidence
from sds3d.guidance.rules import Rule
from sds3d.priors.base import Prior, Query, split_like
from sds3d.priors.parametrisation import add_noise, training_target
from sds3d.priors.score_network import ScoreNetwork
from sds3d.schedule import Schedule

TRAINED = SCORE.network
"""Name of the trained network in rules."""


class GuidedFake(Rule):
    """A rule with the trained network's classifier-free guided prediction u + s (y - u) in the place of its plain one.

    So "guidance on both networks", as SwiftBrush has it, is the rule of VSD in this. The scale may change with the steps; where it
    is that of the teacher's method, both networks have the same in every step (PG-SB draws it anew each time).
    """

    def __init__(self, rule: Rule, scale: Schedule) -> None:
        self.rule, self.scale, self.clean_point = rule, scale, rule.clean_point
        self.needs = _with_bare(rule.needs)

    def wanted(self, step: int, total_steps: int) -> tuple[Branch, ...]:
        """Return the branches of the rule and, unless the scale is 1 now, the trained network's without the prompt."""
        wanted = self.rule.wanted(step, total_steps)
        return wanted if self.scale.at(step, total_steps) == 1.0 else _with_bare(wanted)

    def __call__(self, evidence: Evidence) -> Tensor:
        """Return the residual of the rule."""
        scale, said = self.scale.at(evidence.step, evidence.total_steps), dict(evidence.predictions)
        for branch in evidence.predictions:
            if branch.network == TRAINED and branch != _bare(branch) and scale != 1.0:
                bare = said[_bare(branch)]
                said[branch] = bare + scale * (said[branch] - bare)
        return self.rule(replace(evidence, predictions=said))


def _bare(branch: Branch) -> Branch:
    return replace(branch, text=UNPROMPTED.text)


def _with_bare(branches: Sequence[Branch]) -> tuple[Branch, ...]:
    bare = [_bare(branch) for branch in branches if branch.network == TRAINED]
    return tuple(dict.fromkeys((*branches, *bare)))


def fake_scale(config: FakeConfig, teacher_scale: Schedule) -> Schedule:
    """Return the guidance scale of the fake network: its own, or the teacher's, the same in every step."""
    return teacher_scale if config.scale_like_teacher else Schedule.constant(config.scale)


def drawn_scale(low: float, high: float, steps: int, draws: torch.Generator) -> Schedule:
    """Return a scale that is drawn anew from U[low, high] for each of `steps` steps. Draws do not depend on `steps`.

    Source: PG-SB (SNOOPI, arXiv 2412.02687). Limits: some 150 bytes a step.
    """
    values = (low + (high - low) * torch.rand(steps, generator=draws, dtype=torch.float64)).tolist()
    return Schedule(clock="step", points=tuple(enumerate(values)), interpolation="step")


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
