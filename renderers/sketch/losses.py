"""Regularisers of strokes at rest. All are means, so weights do not depend on the number of strokes."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d import bezier

LENGTH_RANGE = (0.05, 1.5)
"""World units a stroke may measure freely."""
REPEL_SCALE = 0.02
"""World units within which two strokes notice each other."""
REPEL_PAIRS = 64


def bound(samples: Tensor) -> Tensor:
    """Return the mean squared distance of samples [N, P, 3] beyond the unit sphere."""
    beyond = ((samples.square().sum(dim=-1) + 1e-12).sqrt() - 1.0).relu()
    return beyond.square().mean()


def length(samples: Tensor) -> Tensor:
    """Return the mean squared length of strokes [N, P, 3] outside `LENGTH_RANGE`, world units."""
    actual = bezier.lengths(samples)
    return (actual - actual.clamp(*LENGTH_RANGE)).square().mean()


def bend(points: Tensor, samples: Tensor) -> Tensor:
    """Return the mean squared second difference of control points [N, 3M + 1, 3], relative to the length of a segment."""
    parts = bezier.segments(points)
    second = parts[:, :, :-2] - 2.0 * parts[:, :, 1:-1] + parts[:, :, 2:]
    size = (bezier.lengths(samples) / parts.shape[1]).clamp_min(1e-3)
    return (second.square().sum(dim=(2, 3)) / size[:, None].square()).mean()


def joint(points: Tensor) -> Tensor:
    """Return the mean 1 - cosine of the directions on both sides of joints; 0 for strokes of one segment."""
    parts = bezier.segments(points)
    if parts.shape[1] == 1:
        return points.sum() * 0.0
    before, after = parts[:, :-1, 3] - parts[:, :-1, 2], parts[:, 1:, 1] - parts[:, 1:, 0]
    return (1.0 - torch.cosine_similarity(before, after, dim=-1, eps=1e-6)).mean()


def ink(opacity: Tensor) -> Tensor:
    """Return the mean opacity of strokes [N]."""
    return opacity.mean()


def repel(samples: Tensor, generator: torch.Generator) -> Tensor:
    """Return the mean of exp(-d^2 / 2 s^2) over random pairs of places on different strokes [N, P, 3].

    The pairs come from a CPU generator. 0 for a single stroke.
    """
    count, places = samples.shape[:2]
    if count < 2:
        return samples.sum() * 0.0
    first = torch.randint(count, (REPEL_PAIRS,), generator=generator)
    second = (first + 1 + torch.randint(count - 1, (REPEL_PAIRS,), generator=generator)) % count
    place = torch.randint(places, (2, REPEL_PAIRS), generator=generator)
    flat = samples.flatten(0, 1)
    index = torch.stack([first, second]) * places + place
    ends = flat.index_select(0, index.flatten().to(flat.device)).view(2, REPEL_PAIRS, 3)
    squared = (ends[0] - ends[1]).square().sum(dim=-1)
    return torch.exp(-squared / (2.0 * REPEL_SCALE**2)).mean()
