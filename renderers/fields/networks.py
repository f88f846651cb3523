"""Small fully connected networks with explicit randomness and an explicit gradient."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from sds3d.errors import ConfigError

SHARPNESS = 100.0
"""Beta of the softplus that stands for ReLU where the first derivative must be continuous.
Source: Gropp et al. 2020 (IGR), kept by NeuS and VolSDF."""


class Mlp(nn.Module):
    """Linear layers with an activation between them, none after the last.

    Args:
        in_channels, out_channels: sizes of input and output.
        generator: CPU generator of the initial weights (He uniform; biases 0).
        hidden: units of a hidden layer.
        layers: hidden layers; 0 is one linear map.
        activation: "relu", or "softplus" where a loss looks at the derivative.
        last_gain: factor on the initial weights of the last layer; 0 makes the output start at 0.
        bias: whether layers have one.

    Raises: ConfigError for sizes below 1 and unknown activations.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        generator: torch.Generator,
        *,
        hidden: int = 64,
        layers: int = 1,
        activation: str = "relu",
        last_gain: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in ("relu", "softplus"):
            raise ConfigError(f"activation is '{activation}', which is unknown. Use 'relu' or 'softplus'.")
        if min(in_channels, out_channels, hidden) < 1 or layers < 0:
            raise ConfigError(
                f"An Mlp of {in_channels} -> {layers} x {hidden} -> {out_channels} was asked for; sizes must be at "
                "least 1 and layers at least 0. Give larger numbers."
            )
        self.activation = activation
        sizes = [in_channels, *([hidden] * layers), out_channels]
        self.linears = nn.ModuleList(nn.Linear(*pair, bias=bias) for pair in pairwise(sizes))
        with torch.no_grad():
            for number, linear in enumerate(self.linears):
                is_last = number == len(self.linears) - 1
                limit = math.sqrt((3.0 if is_last else 6.0) / linear.in_features) * (last_gain if is_last else 1.0)  # type: ignore[arg-type]
                linear.weight.copy_((torch.rand(linear.weight.shape, generator=generator) * 2 - 1) * limit)  # type: ignore
                if bias:
                    linear.bias.zero_()  # type: ignore

    def forward(self, values: Tensor) -> Tensor:
        """Return [N, out_channels] of values [N, in_channels]."""
        for linear in self.linears[:-1]:
            values = self._activate(linear(values))
        return self.linears[-1](values)  # type: ignore[no-any-return]

    def with_gradient(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output [N, out] and the gradient [N, in] of its first channel by `values` [N, in].

        The chain rule is written out, so that a loss on the gradient needs first derivatives only.
        """
        slopes = []
        for linear in self.linears[:-1]:
            before = linear(values)
            values = self._activate(before)
            slopes.append(self._slope(before))
        output = self.linears[-1](values)
        gradient = self.linears[-1].weight[:1]
        for linear, slope in zip(reversed(self.linears[:-1]), reversed(slopes), strict=True):
            gradient = (gradient * slope) @ linear.weight
        return output, gradient.expand(len(values), -1)

    def _activate(self, values: Tensor) -> Tensor:
        if self.activation == "relu":
            return nn.functional.relu(values)
        return nn.functional.softplus(values, beta=SHARPNESS)

    def _slope(self, values: Tensor) -> Tensor:
        if self.activation == "relu":
            return (values > 0).to(values.dtype)
        return torch.sigmoid(SHARPNESS * values)
