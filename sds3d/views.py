"""How much of which view's text holds for a camera: sharp sectors, smooth mixtures, and Perp-Neg's opposites.

Azimuths are in degrees, any turn, 0 at the front, growing counter-clockwise seen from above (the object's left is +90).
All functions work on tensors without values (meta device).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch is slow to import and configuration must not wait for it
    from torch import Tensor

SIDE, FRONT, BACK, OVERHEAD, LEFT, RIGHT = range(6)
"""Columns of the weights and values of the indices: the order of `sds3d.prompts.VIEWS`, then the two sides by name."""

_FRONT_DECAY = (4.0, 0.5, -2.426)
_SIDE_DECAY = (1.0, 0.5, -0.606)
_OPPOSITE_DECAY = (1.0, 0.5, 0.967)
"""(a, b, k) of a exp(-b r) + k (threestudio-project/threestudio, prompt processors)."""


def wrapped(azimuth_deg: Tensor) -> Tensor:
    """Return azimuths in [-180, 180)."""
    return (azimuth_deg + 180.0).remainder(360.0) - 180.0


def mixture(azimuth_deg: Tensor, elevation_deg: Tensor, overhead_deg: float, two_sides: bool) -> Tensor:
    """Return [B, 6] weights of the six texts, each row summing to 1, continuous in azimuth.

    |azimuth| < 90: front and side in proportion to the angle; beyond: side and back; above `overhead_deg`: overhead.

    Source: LucidDreamer (arXiv 2311.11284), train.py; `two_sides` as in PlacidDreamer (arXiv 2407.13976): the side is
    the left or the right one. Deviation: the overhead view, which both lack, is Perp-Neg's.
    """
    import torch

    azimuth = wrapped(azimuth_deg)
    turn = azimuth.abs() / 90.0  # 0 front, 1 side, 2 back
    front, back = (1.0 - turn).clamp(min=0.0), (turn - 1.0).clamp(min=0.0)
    side, nothing = 1.0 - front - back, torch.zeros_like(turn)
    is_left = azimuth > 0
    sides = (
        (nothing, torch.where(is_left, side, nothing), torch.where(is_left, nothing, side))
        if two_sides
        else (side, nothing, nothing)
    )
    weights = torch.stack([sides[0], front, back, nothing, sides[1], sides[2]], dim=1)
    above = torch.zeros_like(weights)
    above[:, OVERHEAD] = 1.0
    return torch.where((elevation_deg > overhead_deg)[:, None], above, weights)


def opposites(
    azimuth_deg: Tensor, elevation_deg: Tensor, overhead_deg: float, two_sides: bool
) -> tuple[Tensor, Tensor]:
    """Return Perp-Neg's two negative views [B, 2] int64 (indices of texts) and their weights [B, 2], all <= 0.

    Source: Perp-Neg (arXiv 2304.04968) with the constants of threestudio; overhead views have weights 0.
    """
    import torch

    azimuth = wrapped(azimuth_deg)
    turn = azimuth.abs() / 90.0
    is_front = turn < 1.0
    share = torch.where(
        is_front, 1.0 - turn, 2.0 - turn
    )  # r: 1 at the front (or the side), 0 at the side (or the back)
    front, side = torch.full_like(azimuth, FRONT).long(), torch.full_like(azimuth, SIDE).long()
    if two_sides:
        side = torch.where(azimuth > 0, torch.full_like(side, LEFT), torch.full_like(side, RIGHT))
    index = torch.stack([torch.where(is_front, front, side), torch.where(is_front, side, front)], dim=1)
    first = torch.where(is_front, decay(share, *_FRONT_DECAY), decay(share, *_SIDE_DECAY))
    second = torch.where(is_front, decay(1.0 - share, *_FRONT_DECAY), decay(share, *_OPPOSITE_DECAY))
    weights = -torch.stack([first, second], dim=1)
    return index, torch.where((elevation_deg > overhead_deg)[:, None], torch.zeros_like(weights), weights)


def decay(r: Tensor | float, a: float, b: float, k: float) -> Tensor:
    """Return a exp(-b r) + k."""
    value: Tensor = a * math.e ** (-b * r) + k  # type: ignore[assignment]
    return value
