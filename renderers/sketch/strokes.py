"""The parameters of strokes and what they mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError

GROUPS = ("points", "half_widths", "opacities", "colours", "weights")
"""Kinds of parameters, in the order of `Strokes`; before their activations."""


@dataclass(frozen=True)
class Strokes:
    """N strokes of M cubic segments, as an optimiser sees them.

    Args:
        points: [N, 3M + 1, 3] control points, world units.
        half_widths: [N], before the softplus that makes them radii in world units.
        opacities: [N], before the sigmoid.
        colours: [N, 3] sRGB, before the sigmoid.
        weights: [N, 3M + 1] logarithms of the rational weights (the first and the last count as 0), or None.

    Raises: ConfigError for no strokes; ShapeError if shapes do not fit.
    """

    points: Tensor
    half_widths: Tensor
    opacities: Tensor
    colours: Tensor
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.points.shape)
        if len(shape) != 3 or shape[2] != 3 or shape[1] < 4 or shape[1] % 3 != 1:
            raise ShapeError("points", "[strokes, 3 * segments + 1, 3]", shape)
        count = shape[0]
        if count < 1:
            raise ConfigError("The sketch has 0 strokes, but at least 1 is needed. Give a positive count.", "count")
        expected = {"half_widths": (count,), "opacities": (count,), "colours": (count, 3), "weights": shape[:2]}
        for name, wanted in expected.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != wanted:
                raise ShapeError(name, str(list(wanted)), tuple(value.shape))

    def __len__(self) -> int:
        return self.points.shape[0]

    @classmethod
    def of(
        cls,
        points: Tensor,
        *,
        half_width: float | Tensor,
        opacity: float | Tensor = 0.88,
        colour: tuple[float, float, float] | Tensor = (0.0, 0.0, 0.0),
        weights: Tensor | None = None,
    ) -> Strokes:
        """Return strokes from values after their activations: radii in world units, opacities and sRGB in [0, 1]."""
        count = points.shape[0]
        width = torch.as_tensor(half_width, dtype=points.dtype, device=points.device).expand(count)
        ink = torch.as_tensor(opacity, dtype=points.dtype, device=points.device).expand(count)
        tint = torch.as_tensor(colour, dtype=points.dtype, device=points.device).expand(count, 3)
        log_weights = None if weights is None else weights.to(points).log()
        return cls(points.clone(), inverse_softplus(width), safe_logit(ink), safe_logit(tint), log_weights)


def inverse_softplus(value: Tensor) -> Tensor:
    """Return x with log(1 + exp(x)) = value, for values above 0."""
    return value + torch.log(-torch.expm1(-value))


def safe_logit(value: Tensor) -> Tensor:
    """Return the logit of values in [0, 1], kept within +-12 so that black and white are finite."""
    return torch.logit(value, eps=1.0 / (1.0 + math.exp(12.0)))


def pinned(log_weights: Tensor | None) -> Tensor | None:
    """Return the weights' logarithms with both ends at 0: scaling and a change of parameter do not change a curve."""
    if log_weights is None:
        return None
    ends = torch.zeros_like(log_weights)
    ends[:, 1:-1] = 1.0
    return log_weights * ends
