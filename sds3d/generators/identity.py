"""Score identity distillation (SiD): a loss whose gradient passes through the teacher's and the fake network's inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from sds3d.errors import ConfigError
from sds3d.generators.texts import WithTable
from sds3d.priors.base import Prior, Query, stack_queries
from sds3d.priors.parametrisation import epsilon_to_clean, output_to_epsilon
from sds3d.priors.score_network import ScoreNetwork

if TYPE_CHECKING:
    from sds3d.priors.unet_prior import UNetPrior


def clean_estimate(network: Prior | ScoreNetwork, query: Query, alpha: Tensor, sigma: Tensor) -> Tensor:
    """Return the clean estimate [N, C, h, w] of a network at `query`, with a graph to `query.z_t`.

    Raises: ConfigError for a prior that only answers without a graph.
    """
    if isinstance(network, WithTable):
        network = network.prior
    if isinstance(network, ScoreNetwork):
        (output,) = network.output([query])
    elif hasattr(network, "output") and hasattr(network, "stacked"):
        unet: UNetPrior = network  # type: ignore[assignment]
        output = unet.output(unet.stacked([query]))
    else:
        raise ConfigError(
            f"Score identity distillation needs a prior whose prediction has a gradient, but {type(network).__name__} has "
            "none. Use a latent diffusion model, or loss=distillation.",
            path="loss",
        )
    kind = network.parametrisation  # type: ignore[union-attr]
    asked = stack_queries([query]).z_t.float()
    return epsilon_to_clean(output_to_epsilon(output, asked, alpha, sigma, kind), asked, alpha, sigma)


def sid_loss(clean: Tensor, real: Tensor, fake: Tensor, a: float) -> Tensor:
    """Return mean over samples of sum (f - p) [(f - x) - a (f - p)] / mean |x - f|, f = `real`, p = `fake`, x = `clean`.

    The normaliser is held fixed. All three [N, C, h, w] carry graphs to the generator; p's parameters are frozen meanwhile.
    With a perfect fake score the expected value is (1 - a) E|f - p|^2: zero at a = 1, negative at 1.2, so the number says
    nothing about progress. Source: Zhou et al. 2024 (arXiv 2404.04057), mingyuanzhou/SiD. Deviations: our discrete noise
    levels instead of EDM's.
    """
    difference = real - fake
    scale = (clean - real).detach().abs().mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6)
    return (difference * ((real - clean) - a * difference) / scale).flatten(1).sum(dim=1).mean()
