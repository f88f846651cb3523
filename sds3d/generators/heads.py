"""The small networks that read a triplane: signed distance, colour and moves of grid nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

COLOUR_MARGIN = 0.001
"""Colours are sigmoid(x) (1 + 2 margin) - margin, so that 0 and 1 are reached. Source: theEricMa/TriplaneTurbo (1.002, 0.001)."""


class FieldHeads(nn.Module):
    """Bias-free ReLU networks with two hidden layers over plane features.

    Args:
        channels: C of the planes. hidden: width of the hidden layers.
        generator: CPU generator of the first values.
        last_gain: factor on the first values of the last layers; small, so that objects start near the sphere.
    Source: sizes of TriplaneTurbo (arXiv 2503.21694): 32 -> 64 -> 64 -> 1, 96 -> 64 -> 64 -> 3, 32 -> 64 -> 64 -> 3.
    """

    def __init__(self, channels: int, hidden: int, generator: torch.Generator | None, last_gain: float = 1.0) -> None:
        super().__init__()
        self.distance_head = _mlp(channels, hidden, 1, generator, last_gain)
        self.colour_head = _mlp(3 * channels, hidden, 3, generator, last_gain)
        self.move_head = _mlp(channels, hidden, 3, generator, last_gain)

    def distance(self, features: Tensor) -> Tensor:
        """Return [...] what is added to the distance from the first sphere; features [..., C]."""
        return self.distance_head(features)[..., 0]  # type: ignore[no-any-return]

    def colour(self, features: Tensor) -> Tensor:
        """Return colours [..., 3] in [0, 1] up to `COLOUR_MARGIN`; features [..., 3 C]."""
        return self.finished(self.colour_head(features))

    def finished(self, raw: Tensor) -> Tensor:
        """Return colours [..., 3] of what the colour head says [..., 3]."""
        return raw.sigmoid() * (1.0 + 2.0 * COLOUR_MARGIN) - COLOUR_MARGIN

    def moves(self, features: Tensor) -> Tensor:
        """Return raw moves [..., 3] of grid nodes; features [..., C]."""
        return self.move_head(features)  # type: ignore[no-any-return]


def _mlp(inputs: int, hidden: int, outputs: int, generator: torch.Generator | None, last_gain: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for number, (a, b) in enumerate(((inputs, hidden), (hidden, hidden), (hidden, outputs))):
        layer = nn.Linear(a, b, bias=False)
        if generator is not None:
            gain = (last_gain if number == 2 else 2.0**0.5) / a**0.5
            with torch.no_grad():
                layer.weight.copy_(torch.randn(b, a, generator=generator) * gain)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])
