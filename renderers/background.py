"""What is behind an object: the colour that the recipe draws, a learnt sphere of colour, or nothing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from renderers.fields.encodings import FrequencyEncoding
from renderers.fields.networks import Mlp
from sds3d.errors import ConfigError, ShapeError, nearest

KINDS = ("plain", "learnt", "none")
OCTAVES, HIDDEN = 2, 16
"""A background shall be blurred: it must not draw what belongs to the object. Source: Poole et al. 2022 (DreamFusion),
appendix A: a small network of the direction."""


class Background(nn.Module):
    """The colour [B, H, W, 3] behind B pictures.

    Args:
        kind: "plain": the given colour; "none": black; "learnt": a network of the direction of view.
        share: for "learnt", the probability that a training image shows it; the others have the given colour, so that
            the object cannot hide in it. Pictures that are not for training always have the given colour.
        generator: CPU generator of the initial weights.
        channels: numbers a learnt background has in each direction.
    """

    def __init__(self, kind: str, share: float, generator: torch.Generator, channels: int = 3) -> None:
        super().__init__()
        if kind not in KINDS:
            raise ConfigError(f"background is '{kind}', which is unknown. Use {nearest(kind, KINDS)}.", "background")
        self.kind, self.share = kind, share
        if kind == "learnt":
            self.encoding = FrequencyEncoding(OCTAVES)
            self.network = Mlp(self.encoding.out_channels, channels, generator, hidden=HIDDEN, layers=1)

    def forward(
        self,
        given: Tensor,
        directions: Tensor,
        generator: torch.Generator | None,
        colours: Callable[[Tensor], Tensor] = torch.sigmoid,
    ) -> Tensor:
        """Return [B, H, W, 3] in [0, 1], or what broadcasts to it.

        given: [B, 3], or [B, C] where pictures hold latents. directions: [B, H, W, 3] unit. generator: CPU generator of a
        training step; None: no training. colours: from the network's numbers [N, channels] to what pictures hold.
        """
        if given.ndim != 2 or len(given) != len(directions):
            raise ShapeError("background", f"[{len(directions)}, 3]", tuple(given.shape))
        plain = given[:, None, None]
        if self.kind == "none":
            return torch.zeros_like(plain)
        if self.kind == "plain" or generator is None:
            return plain
        learnt = colours(self.network(self.encoding(directions.reshape(-1, 3)))).view(*directions.shape[:3], -1)
        is_shown = (torch.rand(len(given), generator=generator) < self.share).to(given.device)
        return torch.where(is_shown[:, None, None, None], learnt, plain)
