"""Clouds of Gaussians to start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers.gaussians import sh
from renderers.gaussians.parameters import Gaussians
from sds3d.errors import ConfigError

SPACING_SAMPLE = 1024
"""Points whose nearest neighbour is looked for when the spacing of a cloud is measured."""


def ball(
    count: int,
    radius: float,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
    colour_std: float = 0.0,
    scale: float = 1.0,
) -> Gaussians:
    """Return `count` round Gaussians spread evenly over a ball of `radius` about the origin.

    Args:
        count: at least 2. radius: world units, above 0. generator: CPU generator all draws come from.
        opacity: of every Gaussian, in (0, 1). colour: mean sRGB in [0, 1]. colour_std: standard deviation around it
            (limited to [0, 1] after drawing).
        scale: standard deviation of the Gaussians in units of the mean distance to the nearest neighbour.

    Raises: ConfigError for a value out of range.
    """
    distances = radius * torch.rand(count, 1, generator=generator).pow(1.0 / 3.0)
    return _cloud(_directions(count, generator) * distances, radius, generator, opacity, colour, colour_std, scale)


def shell(
    count: int,
    radius: float,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    colour: tuple[float, float, float] = (0.5, 0.5, 0.5),
    colour_std: float = 0.0,
    scale: float = 1.0,
) -> Gaussians:
    """Return `count` round Gaussians spread evenly over a sphere of `radius`; arguments as `ball`."""
    return _cloud(_directions(count, generator) * radius, radius, generator, opacity, colour, colour_std, scale)


def nearest_neighbour_spacing(points: Tensor) -> float:
    """Return the mean distance to the nearest other point of [N, 3] points, over the first `SPACING_SAMPLE` of them.

    Limits: for clouds whose order means nothing; otherwise shuffle first.
    """
    some = points[:SPACING_SAMPLE]
    distances = torch.cdist(some, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances[torch.arange(len(some)), torch.arange(len(some))] = math.inf
    return float(distances.amin(dim=1).mean())


def _directions(count: int, generator: torch.Generator) -> Tensor:
    """Return [count, 3] unit vectors, uniform on the sphere."""
    if count < 2:
        raise ConfigError(f"The Gaussian count is {count}, but at least 2 are needed. Give a larger number.", "count")
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def _cloud(
    means: Tensor,
    radius: float,
    generator: torch.Generator,
    opacity: float,
    colour: tuple[float, float, float],
    colour_std: float,
    scale: float,
) -> Gaussians:
    """Return Gaussians at `means` [N, 3] that overlap their neighbours."""
    for name, value in (("radius", radius), ("scale", scale)):
        if not value > 0:
            raise ConfigError(f"{name} is {value}, but must be above 0. Give a positive number.", name)
    if not 0.0 < opacity < 1.0:
        raise ConfigError(f"opacity is {opacity}, but must lie between 0 and 1, both excluded. Try 0.1.", "opacity")
    count = len(means)
    noise = colour_std * torch.randn(count, 3, generator=generator)
    rgb = (torch.tensor(colour, dtype=torch.float32) + noise).clamp(0.0, 1.0)
    spacing = scale * nearest_neighbour_spacing(means)
    return Gaussians(
        means=means,
        # Rounds have no direction; random ones let needles and discs form without a preferred axis of the world.
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        log_scales=torch.full((count, 3), math.log(spacing)),
        opacity_logits=torch.full((count,), math.log(opacity / (1.0 - opacity))),
        sh0=sh.sh0_from_rgb(rgb),
    )
