"""Where a signed distance changes its sign along an edge, and what keeps a surface closed. Inside is negative."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ConfigError

BORDER_DISTANCE = 1e-2
"""Least signed distance at border nodes, in cells: outside, but near enough not to bend the neighbours' crossings."""


def zero_crossings(first: Tensor, second: Tensor, first_value: Tensor, second_value: Tensor) -> Tensor:
    """Return [..., 3] where the straight line between two values on an edge is 0.

    Args:
        first, second: [..., 3] ends of the edges. first_value, second_value: [...] values there, of opposite sign.
    """
    share = first_value / (first_value - second_value)
    return first + share[..., None] * (second - first)


def keep_border_outside(sdf: Tensor, border: Tensor, cell: float) -> Tensor:
    """Return `sdf` [N] with the nodes of the mask `border` [N] at least `BORDER_DISTANCE` cells outside.

    A surface that does not reach the border of the grid is closed. Nodes that would be inside get no gradient.
    """
    return torch.where(border, sdf.clamp_min(BORDER_DISTANCE * cell), sdf)


def check_surface(faces: Tensor) -> None:
    """Raise ConfigError if there is no triangle; `faces` [F, 3]."""
    if faces.shape[0] == 0:
        raise ConfigError(
            "The signed distance has the same sign at every node of the grid, so it has no surface. Some nodes must be "
            "inside (negative) and some outside: start from a shape that the grid holds, or lower the learning rate of sdf.",
            "renderer",
        )
