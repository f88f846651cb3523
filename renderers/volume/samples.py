"""Samples along rays, packed: one row a sample, those of a ray together and from near to far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers.volume.rays import Rays


@dataclass(frozen=True)
class Samples:
    """N samples on R rays.

    Args:
        ray: [N] int64 in [0, R), ascending.
        distance: [N] from the ray's origin, ascending on a ray.
        width: [N] length of the interval a sample stands for; its middle is `distance`.
        per_ray: samples a ray where all rays have the same number, else 0.
    """

    ray: Tensor
    distance: Tensor
    width: Tensor
    per_ray: int = 0

    def __len__(self) -> int:
        return self.ray.shape[0]


def from_edges(edges: Tensor) -> Samples:
    """Return the K samples a ray between its edges [R, K + 1], which ascend."""
    rays, count = edges.shape[0], edges.shape[1] - 1
    ray = torch.arange(rays, device=edges.device)[:, None].expand(rays, count).reshape(-1)
    middle, width = 0.5 * (edges[:, 1:] + edges[:, :-1]), edges[:, 1:] - edges[:, :-1]
    return Samples(ray, middle.reshape(-1), width.reshape(-1), count)


def uniform(rays: Rays, count: int, jitter: Tensor) -> Samples:
    """Return `count` equal intervals a ray, each sampled at the share `jitter` [R] in [0, 1) of its length.

    A fixed number of samples: shapes do not depend on values. With `jitter` uniform, a sum of f(distance) * width is an
    unbiased estimate of the integral of f. Rays that miss get intervals of width 0.
    """
    width = (rays.far - rays.near) / count
    places = torch.arange(count, device=jitter.device, dtype=width.dtype) + jitter[:, None]
    distance = rays.near[:, None] + places * width[:, None]
    ray = torch.arange(len(rays), device=jitter.device)[:, None].expand_as(distance)
    width = width[:, None].expand_as(distance)
    return Samples(ray.reshape(-1), distance.reshape(-1), width.reshape(-1), count)


def chunks(samples: Samples, rays: int, limit: int) -> Iterator[tuple[slice, Samples]]:
    """Yield pieces of at most about `limit` samples, cut between rays: (the rays of a piece, its samples).

    `ray` of a piece counts from the piece's first ray. A ray with more samples than `limit` is a piece of its own.
    Looks at values only where there is more than one piece and rays differ in their number of samples.
    """
    if len(samples) <= limit:
        yield slice(0, rays), samples
        return
    if samples.per_ray:
        ends = torch.arange(1, rays + 1) * samples.per_ray
    else:
        ends = torch.searchsorted(samples.ray, torch.arange(rays, device=samples.ray.device), right=True).cpu()
    first_ray = first = 0
    while first_ray < rays:
        last_ray = max(first_ray + 1, int(torch.searchsorted(ends, first + limit, right=True)))
        last = int(ends[last_ray - 1])
        part = slice(first, last)
        ray, distance, width = samples.ray[part] - first_ray, samples.distance[part], samples.width[part]
        yield slice(first_ray, last_ray), Samples(ray, distance, width, samples.per_ray)
        first_ray, first = last_ray, last
