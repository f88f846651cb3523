"""Environment maps blurred by the lobes of all roughnesses, as linear maps of their texels: differentiable in all."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sds3d.shading import brdf, cubemap, directions

LADDER = ((0.05, 0), (0.12, 64), (0.25, 32), (0.4, 16), (0.6, 16), (0.8, 16), (1.0, 16))
"""Roughness of each level and the texels along an edge that are enough for it (0: all there are). Level 0 is the map as it
is; between two levels values are interpolated linearly in the roughness."""
DIFFUSE_RESOLUTION = 16
DENSE_ENTRIES = 1536 * 1536
"""Larger matrices are kept sparse."""
SPARSE_CUTOFF = 1e-3
"""Entries below this share of the largest of their row are left out of sparse matrices."""


@dataclass(frozen=True)
class Group:
    """Consecutive levels of one resolution: `atlas` as `cubemap.lookup` reads it, and the number of the first level."""

    atlas: Tensor
    first: int

    @property
    def last(self) -> int:
        """Number of the last level."""
        return self.first + self.atlas.shape[2] - 1


@dataclass(frozen=True)
class Prefiltered:
    """A light as shading reads it. Made by `EnvironmentLight.prefiltered`; holds the graph of one step.

    Args:
        groups: all levels of `LADDER`. cosine: atlas of irradiance / pi.
        turn: azimuth_rad by which the light was turned about +Z, counter-clockwise from above.
    """

    groups: tuple[Group, ...]
    cosine: Tensor
    turn: float = 0.0

    def radiance(self, direction: Tensor) -> Tensor:
        """Return the light [..., 3] that comes from directions [..., 3]."""
        return cubemap.lookup(self.groups[0].atlas, self._local(direction))

    def diffuse(self, normal: Tensor) -> Tensor:
        """Return irradiance / pi, [..., 3], on surfaces with unit normals [..., 3]: what a white Lambert surface shows."""
        return cubemap.lookup(self.cosine, self._local(normal))

    def specular(self, direction: Tensor, roughness: Tensor) -> Tensor:
        """Return the light [..., 3] from about directions [..., 3], blurred by the lobe of `roughness` [..., 1].

        Source: Karis 2013: N = V = R, each direction weighs max(R.L, 0) D(N.H). Differentiable in direction, roughness and
        the texels of the light.
        """
        local, level = self._local(direction), level_of(roughness)
        total = torch.zeros_like(direction)
        for group in self.groups:
            found = cubemap.lookup(group.atlas, local, (level - group.first).clamp(0, group.last - group.first))
            share = (level - (group.first - 1)).clamp(0, 1) * (group.last + 1 - level).clamp(0, 1)
            total = total + share * found
        return total

    def rotated(self, azimuth_rad: float) -> Prefiltered:
        """Return the same light turned by `azimuth_rad` about +Z, counter-clockwise seen from above."""
        return replace(self, turn=self.turn + azimuth_rad)

    def _local(self, direction: Tensor) -> Tensor:
        if self.turn == 0.0:
            return direction
        cosine, sine = math.cos(self.turn), math.sin(self.turn)
        x, y, z = direction.unbind(-1)
        return torch.stack([cosine * x + sine * y, cosine * y - sine * x, z], dim=-1)


def level_of(roughness: Tensor) -> Tensor:
    """Return the place of roughnesses of any shape on the ladder, in [0, levels - 1]."""
    knots = [knot for knot, _ in LADDER]
    pairs = itertools.pairwise(knots)
    steps = [((roughness - low) / (high - low)).clamp(0.0, 1.0) for low, high in pairs]
    return torch.stack(steps).sum(dim=0)


def prefilter(texels: Tensor) -> Prefiltered:
    """Return the light of a cube map [6, R, R, 3], linear, in the layout of `directions`.

    Each level is a constant matrix times the texels, with rows that sum to 1: constant light stays what it is.
    Matrices are computed at the first call of a resolution (R = 64: seconds on a CPU) and kept.
    Limits: levels that need fewer texels are computed from the map halved so often.
    """
    cubemap.check_cubemap(texels)
    groups: list[Group] = []
    for number, (roughness, limit) in enumerate(LADDER):
        small = _reduced(texels, limit)
        level = small if number == 0 else convolve(small, roughness)
        atlas = cubemap.bordered(level[None])
        if groups and groups[-1].atlas.shape[-1] == atlas.shape[-1]:
            groups[-1] = Group(torch.cat([groups[-1].atlas, atlas], dim=2), groups[-1].first)
        else:
            groups.append(Group(atlas, number))
    cosine = cubemap.bordered(convolve(_reduced(texels, DIFFUSE_RESOLUTION), None)[None])
    return Prefiltered(tuple(groups), cosine)


def _reduced(texels: Tensor, limit: int) -> Tensor:
    """Return the cube map halved until it has at most `limit` texels along an edge, as far as they are even."""
    while limit and texels.shape[1] > limit and texels.shape[1] % 2 == 0:
        texels = cubemap.halved(texels)
    return texels


def convolve(texels: Tensor, roughness: float | None) -> Tensor:
    """Return [6, R, R, 3], cube map `texels` blurred by the lobe of a roughness in (0, 1], or by the cosine (None)."""
    resolution = texels.shape[1]
    flat = texels.reshape(-1, texels.shape[-1])
    if (6 * resolution**2) ** 2 <= DENSE_ENTRIES:
        blurred = dense_kernel(resolution, roughness, flat.device, flat.dtype) @ flat
    else:
        blurred = SparseProduct.apply(flat, *sparse_kernel(resolution, roughness, flat.device, flat.dtype))
    return blurred.view(texels.shape)


@functools.lru_cache(maxsize=32)
def dense_kernel(resolution: int, roughness: float | None, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Return the matrix [6 R^2, 6 R^2] of `convolve`."""
    texel = directions.cube_directions(resolution).view(-1, 3)
    area = directions.cube_solid_angles(resolution).flatten().float()
    weight = _weights(texel @ texel.T, area, roughness)
    return (weight / weight.sum(dim=1, keepdim=True)).to(device, dtype)


@functools.lru_cache(maxsize=32)
def sparse_kernel(
    resolution: int, roughness: float | None, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return the matrix of `convolve` without its small entries and its transpose, both CSR."""
    texel = directions.cube_directions(resolution).view(-1, 3)
    area = directions.cube_solid_angles(resolution).flatten().float()
    reach = _reach(roughness)
    rows, columns, values = [], [], []
    for tile in _tiles(resolution):
        piece = texel[tile]
        centre = torch.nn.functional.normalize(piece.mean(dim=0), dim=0)
        radius = float((piece @ centre).clamp(-1, 1).acos().max())
        near = (texel @ centre >= math.cos(min(reach + radius, math.pi))).nonzero()[:, 0]
        weight = _weights(piece @ texel[near].T, area[near], roughness)
        weight = torch.where(weight >= SPARSE_CUTOFF * weight.amax(dim=1, keepdim=True), weight, 0.0)
        weight = weight / weight.sum(dim=1, keepdim=True)
        place = weight.nonzero()
        rows.append(tile[place[:, 0]])
        columns.append(near[place[:, 1]])
        values.append(weight[place[:, 0], place[:, 1]])
    index = torch.stack([torch.cat(rows), torch.cat(columns)])
    size = (len(texel), len(texel))
    matrices = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        for place in (index, index.flip(0)):
            matrix = torch.sparse_coo_tensor(place, torch.cat(values), size, check_invariants=False).coalesce()
            matrices.append(matrix.to_sparse_csr().to(device, dtype))
    return matrices[0], matrices[1]


def _reach(roughness: float | None) -> float:
    """Return the angle between R and the light, rad, at which the weight has fallen to `SPARSE_CUTOFF` of its maximum."""
    if roughness is None:
        return 0.5 * math.pi
    square = roughness**4
    sine = square * (SPARSE_CUTOFF**-0.5 - 1.0) / (1.0 - min(square, 0.999))
    return 2.0 * math.asin(min(sine, 1.0) ** 0.5)


def _tiles(resolution: int) -> Tensor:
    """Return the texels of a cube map [T, P] in square tiles, so that those of one lie close together."""
    edge = math.gcd(resolution, 8)
    count = resolution // edge
    texel = torch.arange(6 * resolution * resolution).view(6, count, edge, count, edge)
    return texel.permute(0, 1, 3, 2, 4).reshape(-1, edge * edge)


def _weights(cosine: Tensor, area: Tensor, roughness: float | None) -> Tensor:
    """Return what light at the angles of `cosine` [P, M] = R.L weighs, in texels of solid angles [M]."""
    weight = cosine.clamp_min(0.0) * area
    if roughness is None:
        return weight
    # H halves the angle between R and the light: (N.H)^2 = (1 + R.L) / 2.
    half = ((1.0 + cosine) * 0.5).clamp(0.0, 1.0).sqrt()
    return weight * brdf.distribution(half, torch.tensor(roughness**2))


class SparseProduct(torch.autograd.Function):
    """matrix @ values for a constant CSR matrix; the transpose is given too, for torch's own backward is slow.

    Only `values` has a gradient.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: Tensor, transposed: Tensor) -> Tensor:
        """Return [M, C] of values [N, C]."""
        ctx.transposed = transposed
        return matrix @ values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Return the gradient [N, C] of the values."""
        return ctx.transposed @ gradients[0].contiguous(), None, None
