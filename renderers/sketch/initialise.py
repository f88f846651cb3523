"""Strokes to start from: at random, along a cloud of points, along the edges of a mesh, from a flat drawing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError

NEIGHBOURS = 16
"""Points whose main direction a stroke on a cloud follows."""


def in_sphere(
    count: int,
    radius: float,
    generator: torch.Generator,
    *,
    segments: int = 1,
    length: tuple[float, float] = (0.15, 0.3),
) -> Tensor:
    """Return control points [count, 3 * segments + 1, 3] of nearly straight strokes, centres even in a ball.

    Args:
        count: at least 1. radius: of the ball, world units. generator: CPU generator all draws come from.
        length: shortest and longest stroke, world units.
    Raises: ConfigError if count is below 1.
    Source: Zhang et al., 2024, Diff3DS (strokes inside a sphere of fixed size); lengths are ours.
    """
    if count < 1:
        raise ConfigError(f"The sketch has {count} strokes, but at least 1 is needed. Give a positive count.", "count")
    distances = radius * torch.rand(count, 1, generator=generator).pow(1.0 / 3.0)
    centres = _directions(count, generator) * distances
    return around(centres, _directions(count, generator), generator, segments=segments, length=length)


def around(
    centres: Tensor,
    directions: Tensor,
    generator: torch.Generator,
    *,
    segments: int = 1,
    length: tuple[float, float] = (0.15, 0.3),
) -> Tensor:
    """Return control points of strokes through `centres` [N, 3] along unit `directions` [N, 3], inner ones jittered 10 %."""
    count, inner = centres.shape[0], 3 * segments + 1
    extent = length[0] + (length[1] - length[0]) * torch.rand(count, 1, 1, generator=generator)
    along = torch.linspace(-0.5, 0.5, inner)[None, :, None]
    jitter = 0.1 * torch.randn(count, inner, 3, generator=generator)
    jitter[:, [0, -1]] = 0.0
    return centres[:, None] + extent * (along * directions[:, None] + jitter)


def on_points(
    places: Tensor,
    count: int,
    generator: torch.Generator,
    *,
    segments: int = 1,
    length: tuple[float, float] = (0.15, 0.3),
) -> Tensor:
    """Return strokes at `count` far apart points of a cloud [P, 3], along the cloud's main direction there.

    Args: as `in_sphere`. With fewer points than strokes, points are used again.
    Raises: ShapeError if there are no points.
    Source: farthest-point samples as Choi et al., 2024, 3Doodle. Deviation: they start with a tiny random walk, here the
    main direction of the nearest points is followed.
    """
    if places.dim() != 2 or places.shape[1] != 3 or not len(places):
        raise ShapeError("places", "[points, 3] with at least 1 point", tuple(places.shape))
    chosen = farthest(places, count, generator)
    distance = torch.cdist(places[chosen], places)
    near = distance.topk(min(NEIGHBOURS, len(places)), largest=False).indices
    cloud = places[near] - places[near].mean(dim=1, keepdim=True)
    directions = torch.linalg.eigh(cloud.transpose(1, 2) @ cloud).eigenvectors[..., -1]
    return around(places[chosen], directions, generator, segments=segments, length=length)


def farthest(places: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return [count] indices of points [P, 3], each the farthest from those before; the first is random."""
    index = int(torch.randint(len(places), (), generator=generator))
    chosen, gap = [], torch.full((len(places),), math.inf)
    for _ in range(count):
        chosen.append(index)
        gap = torch.minimum(gap, (places - places[index]).square().sum(dim=1))
        if float(gap.max()) == 0.0:
            gap = torch.full_like(gap, math.inf)  # every point is used: begin again
        index = int(gap.argmax())
    return torch.tensor(chosen)


def along_polylines(lines: list[Tensor], segments: int = 1) -> Tensor:
    """Return control points [len(lines), 3 * segments + 1, 3] of least-squares curves through polylines [P, 3].

    Each is resampled evenly; ends stay. Limits: the parameter is the length along the polyline and is not refined.
    """
    from sds3d import bezier

    places, inner = 24 * segments, 3 * segments + 1
    t = torch.linspace(0.0, 1.0, places + 1, dtype=torch.float64)
    segment = (t * segments).floor().clamp_max(segments - 1)
    basis = torch.zeros(places + 1, inner, dtype=torch.float64)
    columns = 3 * segment.long()[:, None] + torch.arange(4)
    basis.scatter_add_(1, columns, bezier.bernstein(t * segments - segment))
    ends, middle = basis[:, [0, -1]], basis[:, 1:-1]
    solve = torch.linalg.pinv(middle)
    result = []
    for line in lines:
        even = _even(line.double(), places + 1)
        fixed = even[[0, -1]]
        result.append(torch.cat([fixed[:1], solve @ (even - ends @ fixed), fixed[1:]]))
    return torch.stack(result).float()


def lifted(flat: Tensor, generator: torch.Generator, *, size: float = 1.0, jitter: float = 0.05) -> Tensor:
    """Return strokes in space from control points [N, K, 2] of a drawing (x right, y down), as seen from the front.

    The drawing is centred and scaled to radius `size`, stands in the plane x = 0 and its strokes are moved towards or
    away from the front by a normal deviate times `jitter`, world units.
    """
    middle = 0.5 * (flat.amin(dim=(0, 1)) + flat.amax(dim=(0, 1)))
    centred = flat - middle
    centred = centred * (size / centred.norm(dim=-1).amax().clamp_min(1e-9))
    forward = jitter * torch.randn(len(flat), 1, generator=generator).expand(-1, flat.shape[1])
    return torch.stack([forward, centred[..., 0], -centred[..., 1]], dim=-1)


def _even(line: Tensor, count: int) -> Tensor:
    """Return `count` places [count, 3] at even lengths along a polyline."""
    steps = (line[1:] - line[:-1]).norm(dim=1)
    at = torch.cat([steps.new_zeros(1), steps.cumsum(0)])
    wanted = torch.linspace(0.0, 1.0, count, dtype=line.dtype) * at[-1]
    piece = (torch.searchsorted(at, wanted, right=True) - 1).clamp(0, len(steps) - 1)
    share = (wanted - at[piece]) / steps[piece].clamp_min(1e-12)
    return line[piece].lerp(line[piece + 1], share[:, None].clamp(0.0, 1.0))


def _directions(count: int, generator: torch.Generator) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
