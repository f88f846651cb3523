"""Clouds of Gaussians to start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from renderers.gaussians import sh
from renderers.gaussians.checks import LENGTH_MIN
from renderers.gaussians.parameters import GROUPS, Gaussians
from sds3d.errors import ConfigError
from sds3d.export.splats import Splats

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


def from_points(
    positions: Tensor,
    colours: Tensor,
    generator: torch.Generator,
    *,
    opacity: float = 0.1,
    scale: float = 1.0,
) -> Gaussians:
    """Return one round Gaussian a point, as wide as the point is far from its neighbours.

    Args:
        positions: [N, 3], world frame, N >= 2. colours: [N, 3] sRGB in [0, 1]. generator: draws the orientations.
        opacity: of every Gaussian, in (0, 1).
        scale: standard deviation in units of the root mean square distance to the three nearest neighbours.

    Raises: ConfigError for a value out of range or fewer than two points.
    Source: Kerbl et al., 2023, initialisation from a point cloud. Deviation: points in the same place take a hundredth
    of the usual spacing instead of a fixed smallest one.
    """
    from scipy.spatial import cKDTree

    _check_count(len(positions))
    if not positions.isfinite().all():
        raise ConfigError("positions hold NaN or infinity, but must be finite. Leave those points out.", "positions")
    exact = positions.detach().double().numpy()
    neighbours = min(4, len(exact))
    distances = torch.from_numpy(cKDTree(exact).query(exact, k=neighbours)[0][:, 1:])
    spacing = distances.square().mean(dim=1).sqrt()
    usual = spacing[spacing > 0].median() if (spacing > 0).any() else spacing.new_tensor(1e-3)
    widths = scale * spacing.clamp_min(0.01 * float(usual))
    return _round(positions, widths, colours, generator, opacity, scale)


def from_splats(splats: Splats) -> Gaussians:
    """Return the Gaussians of a file; harmonics beyond degree 0 are dropped, as the renderer has none, and quaternions
    of length 0, which some files have, become the identity."""
    found = {name: torch.from_numpy(getattr(splats, name).copy()) for name in GROUPS}
    found["quats"][torch.linalg.vector_norm(found["quats"], dim=1) < LENGTH_MIN] = torch.tensor([1.0, 0.0, 0.0, 0.0])
    return Gaussians(**found)


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
    _check_count(count)
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)


def _check_count(count: int) -> None:
    if count < 2:
        raise ConfigError(f"The Gaussian count is {count}, but at least 2 are needed. Give a larger number.", "count")


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
    if not 0 < radius < math.inf:
        raise ConfigError(f"radius is {radius}, but must be above 0 and finite. Give a positive number.", "radius")
    if len(colour) != 3 or not all(0.0 <= channel <= 1.0 for channel in colour):
        raise ConfigError(
            f"colour is {colour}, but three numbers from 0 to 1 are needed. Try (0.5, 0.5, 0.5).", "colour"
        )
    count = len(means)
    noise = colour_std * torch.randn(count, 3, generator=generator)
    rgb = (torch.tensor(colour, dtype=torch.float32) + noise).clamp(0.0, 1.0)
    widths = torch.full((count,), scale * nearest_neighbour_spacing(means), dtype=torch.float64)
    return _round(means, widths, rgb, generator, opacity, scale)


def _round(
    means: Tensor, widths: Tensor, rgb: Tensor, generator: torch.Generator, opacity: float, scale: float
) -> Gaussians:
    """Return round Gaussians of standard deviation `widths` [N] and colours `rgb` [N, 3] at `means` [N, 3]."""
    if not 0 < scale < math.inf:
        raise ConfigError(f"scale is {scale}, but must be above 0 and finite. Give a positive number.", "scale")
    if not 0.0 < opacity < 1.0:
        raise ConfigError(f"opacity is {opacity}, but must lie between 0 and 1, both excluded. Try 0.1.", "opacity")
    count = len(means)
    return Gaussians(
        means=means,
        # Rounds have no direction; random ones let needles and discs form without a preferred axis of the world.
        quats=torch.nn.functional.normalize(torch.randn(count, 4, generator=generator), dim=1),
        log_scales=widths.log().to(means.dtype)[:, None].expand(count, 3).contiguous(),
        opacity_logits=torch.full((count,), math.log(opacity / (1.0 - opacity))),
        sh0=sh.sh0_from_rgb(rgb),
    )
