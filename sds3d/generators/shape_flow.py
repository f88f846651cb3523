"""A flow model of toybox shapes small enough for a CPU: a network of latents, told noun and colour."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sds3d.generators import flow
from sds3d.generators.fake import reseed
from sds3d.toybox.palette import COLORS, NOUNS


class FlowBlock(nn.Module):
    """Two layers beside the identity; what goes in is scaled and shifted, and what comes out gated, by what it is told."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.network = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.told = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return [N, width]; told: [N, width]."""
        shift, scale, gate = self.told(told).chunk(3, dim=-1)
        return x + gate * self.network(self.norm(x) * (1.0 + scale) + shift)  # type: ignore[no-any-return]


class ShapeFlow(nn.Module):
    """Velocity [N, dim] of latents at times t in [0, 1] (1 is noise), given the places of noun and colour in the palette.

    Source: how diffusion transformers are told their time and words (adaptive layer norms, as in microsoft/TRELLIS).
    Deviations: one token, so no attention; all sizes.
    """

    def __init__(self, dim: int, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.dim, self.width = dim, width
        self.entry = nn.Linear(dim, width)
        self.nouns, self.colours = nn.Embedding(len(NOUNS), width), nn.Embedding(len(COLORS), width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(depth))
        self.exit = nn.Linear(width, dim)
        reseed(self, generator)
        with torch.no_grad():
            for table in (self.nouns, self.colours):
                table.weight.copy_(torch.randn(table.weight.shape, generator=generator))
            self.exit.weight.zero_()

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """Return the velocity; words: [N, 2] int64, noun and colour."""
        told = self.time(self._waves(t))
        told = nn.functional.silu(told + self.nouns(words[:, 0]) + self.colours(words[:, 1]))
        hidden = self.entry(x)
        for block in self.blocks:
            hidden = block(hidden, told)
        return self.exit(hidden)  # type: ignore[no-any-return]

    def _waves(self, t: Tensor) -> Tensor:
        half = self.width // 2
        rates = torch.exp(-math.log(100.0) * torch.arange(half, device=t.device, dtype=t.dtype) / half)  # 1 to 0.01
        angle = 10.0 * t[:, None] * rates
        return torch.cat([angle.sin(), angle.cos()], dim=1)


def told(network: ShapeFlow, words: Tensor) -> flow.Velocity:
    """Return the network as a velocity of (x, t), for given words."""
    return lambda x, t: network(x, t, words)


def flow_matching_loss(network: Callable[..., Tensor], clean: Tensor, words: Tensor, draws: torch.Generator) -> Tensor:
    """Return the mean of |v(x_t, t) - (noise - x0)|^2 at logit-normal times: how the teacher is trained."""
    noise = torch.randn(clean.shape, generator=draws).to(clean)
    t = flow.draw_times(len(clean), None, draws).to(clean)
    velocity = network(flow.interpolated(clean, noise, t), t, words)
    return (velocity - (noise - clean)).square().mean()
