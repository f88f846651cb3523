"""A flow model of toybox shapes small enough for a CPU: a transformer over patches of a grid, told noun and colour."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError
from sds3d.generators import flow
from sds3d.generators.fake import reseed
from sds3d.toybox.palette import COLORS, NOUNS

CHANNELS, PATCH = 4, 2


class FlowBlock(nn.Module):
    """Attention and a network of two layers, both scaled, shifted and gated by what the block is told."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.second_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.queries, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.network = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.told = nn.Linear(width, 6 * width)

    def forward(self, tokens: Tensor, told: Tensor) -> Tensor:
        """Return [N, K, width]; told: [N, width]."""
        shift, scale, gate, late_shift, late_scale, late_gate = self.told(told)[:, None].chunk(6, dim=-1)
        x = self.first_norm(tokens) * (1.0 + scale) + shift
        parts = self.queries(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts.unbind()).transpose(1, 2).flatten(2)
        tokens = tokens + gate * self.out(mixed)
        x = self.second_norm(tokens) * (1.0 + late_scale) + late_shift
        return tokens + late_gate * self.network(x)  # type: ignore[no-any-return]


class ShapeFlow(nn.Module):
    """Velocity [N, 4, n, n, n] of grids at times t in [0, 1] (1 is noise), given the places of noun and colour in the palette.

    Source: the layout of diffusion transformers as TRELLIS uses them (microsoft/TRELLIS); sizes are ours.
    """

    def __init__(self, size: int, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        if size % PATCH:
            raise ShapeError("grid", f"a multiple of {PATCH} nodes along an edge", (size,))
        self.size, self.width = size, width
        self.entry = nn.Linear(CHANNELS * PATCH**3, width)
        self.place = nn.Parameter(0.1 * torch.randn((size // PATCH) ** 3, width, generator=generator))
        self.nouns, self.colours = nn.Embedding(len(NOUNS), width), nn.Embedding(len(COLORS), width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(FlowBlock(width) for _ in range(depth))
        self.exit = nn.Linear(width, CHANNELS * PATCH**3)
        reseed(self, generator)
        with torch.no_grad():
            for table in (self.nouns, self.colours):
                table.weight.copy_(torch.randn(table.weight.shape, generator=generator))
            self.exit.weight.zero_()

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """Return the velocity; words: [N, 2] int64, noun and colour."""
        told = self.time(self._waves(t))
        told = nn.functional.silu(told + self.nouns(words[:, 0]) + self.colours(words[:, 1]))
        cells = self.size // PATCH
        split = x.reshape(len(x), CHANNELS, cells, PATCH, cells, PATCH, cells, PATCH)
        tokens = self.entry(split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(len(x), cells**3, -1)) + self.place
        for block in self.blocks:
            tokens = block(tokens, told)
        out = self.exit(tokens).reshape(len(x), cells, cells, cells, CHANNELS, PATCH, PATCH, PATCH)
        return out.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(x.shape)  # type: ignore[no-any-return]

    def _waves(self, t: Tensor) -> Tensor:
        half = self.width // 2
        rates = torch.exp(-math.log(10_000.0) * torch.arange(half, device=t.device, dtype=t.dtype) / half)  # 1 to 1e-4
        angle = 1000.0 * t[:, None] * rates
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
