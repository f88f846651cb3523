"""Looking up points on triplanes. Two implementations of one formula: a fast one, and one with second derivatives.

Each plane is an upright picture of the box, sampled bilinearly between texel centres (zeros outside), u right, v down:

| plane | (u, v) | seen from |
|---|---|---|
| xy | (y, x) | above, the front at the bottom |
| xz | (-x, -z) | the +y side |
| yz | (y, -z) | the front (+x) |

Source: theEricMa/TriplaneTurbo (rotation and projection, equivalent to this table); align_corners = False.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError

AXES = ((1, 0), (0, 2), (1, 2))
"""World axes that u and v of the planes xy, xz, yz run along."""
SIGNS = ((1.0, 1.0), (-1.0, -1.0), (1.0, -1.0))


def plane_coordinates(points: Tensor) -> Tensor:
    """Return [B, 3, N, 2], (u, v) of points [B, N, 3] in [-1, 1]^3 on the three planes."""
    planes = [
        torch.stack([sign_u * points[..., u], sign_v * points[..., v]], dim=-1)
        for (u, v), (sign_u, sign_v) in zip(AXES, SIGNS, strict=True)
    ]
    return torch.stack(planes, dim=1)


def sample_planes(planes: Tensor, points: Tensor, twice: bool = False) -> Tensor:
    """Return features [B, 3, N, C] of points [B, N, 3] (unit box) on planes [B, 3, C, H, W].

    twice: use gathers, which are differentiable any number of times in planes and points; otherwise the library's
        sampler, several times faster, whose second derivative in the points does not exist.
    Raises: ShapeError.
    """
    if planes.ndim != 5 or planes.shape[1] != 3:
        raise ShapeError("planes", "[B, 3, C, H, W]", tuple(planes.shape))
    if points.ndim != 3 or points.shape[0] != planes.shape[0] or points.shape[2] != 3:
        raise ShapeError("points", f"[{planes.shape[0]}, N, 3]", tuple(points.shape))
    where = plane_coordinates(points)
    return gathered(planes, where) if twice else sampled(planes, where)


def sampled(planes: Tensor, where: Tensor) -> Tensor:
    """Return [B, P, N, C] by the library's bilinear sampler; arguments as `gathered`."""
    batch, count = planes.shape[:2]
    found = nn.functional.grid_sample(
        planes.flatten(0, 1), where.flatten(0, 1)[:, None], "bilinear", "zeros", align_corners=False
    )  # [B * P, C, 1, N]
    return found[:, :, 0].transpose(1, 2).unflatten(0, (batch, count)).contiguous()


def gathered(planes: Tensor, where: Tensor) -> Tensor:
    """Return [B, P, N, C] bilinear values of planes [B, P, C, H, W] at `where` [B, P, N, 2] in [-1, 1].

    Only gathers and products: differentiable twice. The weights are piecewise linear, so the second derivative by the
    place alone is the mixed one (d2 / du dv).
    """
    height, width = planes.shape[-2:]
    x = (where[..., 0] + 1.0) * (0.5 * width) - 0.5
    y = (where[..., 1] + 1.0) * (0.5 * height) - 0.5
    left, top = x.detach().floor(), y.detach().floor()
    share_x, share_y = x - left, y - top
    rows = planes.flatten(3).transpose(2, 3)  # [B, P, H * W, C]
    total = torch.zeros_like(share_x)[..., None]
    for down in (0, 1):
        for right in (0, 1):
            column, row = left + right, top + down
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
            weight = (share_x if right else 1.0 - share_x) * (share_y if down else 1.0 - share_y)
            texel = rows.gather(2, index[..., None].expand(*index.shape, rows.shape[3]))
            total = total + (weight * inside)[..., None] * texel
    return total


def geometry_features(features: Tensor) -> Tensor:
    """Return [B, N, C], the sum over the planes of [B, 3, N, C]."""
    return features.sum(dim=1)


def texture_features(features: Tensor) -> Tensor:
    """Return [B, N, 3 C], the planes of [B, 3, N, C] side by side."""
    return features.transpose(1, 2).flatten(2)
