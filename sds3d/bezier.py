"""Piecewise cubic Bezier curves in space and their exact pictures.

A curve of M segments has 3M + 1 control points; segment m uses 3m to 3m + 3, so neighbours share an end point. With
weights w = exp(log_weight) it is rational: sum B_i w_i P_i / sum B_i w_i. The picture of a cubic through a perspective
camera is a rational cubic, too: with h_i = K (R P_i + t) = (X_i, Y_i, Z_i) it is

    c(t) = sum B_i w_i (X_i, Y_i) / sum B_i w_i Z_i,     depth z(t) = sum B_i w_i Z_i / sum B_i w_i.

So a picture of the control points alone is not enough: an ordinary cubic through them is wrong by many pixels for
strokes near the camera. The rational form holds while all Z_i are positive; drawing projects samples instead.
"""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 0.05
"""Camera z up to which nothing is drawn, world units."""
RADIUS_RANGE_PX = (0.3, 4.0)
"""Radii of lines in a picture of up to 256 rows; the upper one grows with larger pictures."""


def bernstein(t: Tensor) -> Tensor:
    """Return the four cubic Bernstein polynomials [..., 4] at `t` [...] in [0, 1]."""
    s = 1.0 - t
    return torch.stack([s * s * s, 3.0 * t * s * s, 3.0 * t * t * s, t * t * t], dim=-1)


def bernstein_slope(t: Tensor) -> Tensor:
    """Return their derivatives [..., 4] by t."""
    s = 1.0 - t
    return torch.stack([-3.0 * s * s, 3.0 * s * s - 6.0 * t * s, 6.0 * t * s - 3.0 * t * t, 3.0 * t * t], dim=-1)


def segments(values: Tensor) -> Tensor:
    """Return [N, M, 4, C], the values [N, 3M + 1, C] at the control points of each segment."""
    count = (values.shape[1] - 1) // 3
    index = (3 * torch.arange(count, device=values.device)[:, None] + torch.arange(4, device=values.device)).flatten()
    return values.index_select(1, index).view(values.shape[0], count, 4, values.shape[2])


def sample(points: Tensor, per_segment: int, log_weights: Tensor | None = None) -> Tensor:
    """Return [N, M * per_segment + 1, 3], places at even parameters along curves.

    Args:
        points: [N, 3M + 1, 3] control points. per_segment: pieces a segment is cut into, at least 1.
        log_weights: [N, 3M + 1] logarithms of the rational weights; None: all weights are 1.
    """
    t = torch.linspace(0.0, 1.0, per_segment + 1, device=points.device, dtype=points.dtype)
    basis = bernstein(t)
    if log_weights is None:
        places = basis @ segments(points)
    else:
        weights = log_weights.exp()[..., None]
        places = (basis @ segments(points * weights)) / (basis @ segments(weights))
    return torch.cat([places[:, :, :-1].flatten(1, 2), places[:, -1, -1:]], dim=1)


def lengths(places: Tensor) -> Tensor:
    """Return [N], lengths of the polylines through `places` [N, P, C]."""
    steps = (places[:, 1:] - places[:, :-1]).square().sum(dim=-1)
    return (steps + 1e-12).sqrt().sum(dim=-1)


def homogeneous(points: Tensor, world_to_cam: Tensor, intrinsics: Tensor) -> Tensor:
    """Return K (R P + t) [..., 3] of world points [..., 3] for one camera ([4, 4], [3, 3]): pixels times depth, depth."""
    in_camera = points @ world_to_cam[:3, :3].T + world_to_cam[:3, 3]
    return in_camera @ intrinsics.T


def rational(controls: Tensor, weights: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return value [..., T, 2], slope [..., T, 2] by t, and depth [..., T] of the pictures of cubics.

    Args:
        controls: [..., 4, 3], `homogeneous` control points, depths above 0. weights: [..., 4], above 0.
        t: [T] in [0, 1], or [..., T].
    """
    weighted = torch.cat([controls * weights[..., None], weights[..., None]], dim=-1)
    value, slope = bernstein(t) @ weighted, bernstein_slope(t) @ weighted
    over = value[..., 2:3]
    place = value[..., :2] / over
    return place, (slope[..., :2] - place * slope[..., 2:3]) / over, value[..., 2] / value[..., 3]


def radius_in_picture(half_width: Tensor, depth: Tensor, focal: Tensor, height: int) -> Tensor:
    """Return radii in pixels of lines of `half_width` world units at camera z `depth`, limited to `RADIUS_RANGE_PX`.

    focal: geometric mean of both focal lengths, pixels. height: of the picture, pixels. All tensors broadcast.
    """
    lowest, highest = RADIUS_RANGE_PX
    return (focal * half_width / depth.clamp_min(NEAR)).clamp(lowest, highest * max(height / 256.0, 1.0))
