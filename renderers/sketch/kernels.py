"""The ink a stroke leaves at a distance from its middle line.

Each kernel c(d; r) has the integral 2 r across the stroke at every radius r, so that a thin stroke fades instead of
aliasing; it is even in d, falls with |d| and never exceeds 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def gauss(distance: Tensor, radius: Tensor, softness: float) -> Tensor:
    """Return a strip of half-width `radius` blurred by a Gaussian of standard deviation `softness`; all in pixels."""
    scale = 1.0 / (math.sqrt(2.0) * softness)
    return 0.5 * (torch.erf((radius - distance) * scale) + torch.erf((radius + distance) * scale))


def smoothstep(distance: Tensor, radius: Tensor, softness: float) -> Tensor:
    """Return a strip with edges of two pixels that rise as 3 u^2 - 2 u^3; `softness` is ignored.

    Source: Li et al., 2020, "Differentiable Vector Graphics Rasterization", prefiltered strokes of diffvg.
    """
    return _step(distance + radius) - _step(distance - radius)


def sigmoid(distance: Tensor, radius: Tensor, softness: float) -> Tensor:
    """Return a strip with logistic edges: its long tails pull from far away."""
    return torch.sigmoid((radius - distance) / softness) + torch.sigmoid((radius + distance) / softness) - 1.0


def _step(x: Tensor) -> Tensor:
    u = ((x + 1.0) * 0.5).clamp(0.0, 1.0)
    return u * u * (3.0 - 2.0 * u)


KERNELS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "gauss": gauss,
    "smoothstep": smoothstep,
    "sigmoid": sigmoid,
}


def reach(kernel: str, softness: float) -> float:
    """Return how far beyond the radius a kernel is worth drawing, pixels: less than 2e-8 of ink is left out."""
    return {"gauss": 5.5 * softness, "smoothstep": 1.0, "sigmoid": 18.0 * softness}[kernel]
