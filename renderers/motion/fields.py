"""Deformation fields: where the points of a rest shape go, relative to it. All are 0 at the reference time."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn

from renderers.fields.networks import Mlp
from renderers.motion.bases import Basis
from renderers.motion.similarity import quaternion_from_vector, rotation_from_vector
from sds3d.errors import ConfigError, ShapeError


class Deformation(NamedTuple):
    """What a field says of P points at F times.

    offsets: [F, P, 3] world units. turns: [F, P, 4] wxyz, any length > 0, the local rotation; or None: not turned.
    log_scales: [F, P, 3] added to the logarithms of a Gaussian's scales, or None.
    """

    offsets: Tensor
    turns: Tensor | None = None
    log_scales: Tensor | None = None


class Field(nn.Module, ABC):
    """A deformation of points in time."""

    @abstractmethod
    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return the deformation of `rest` [P, 3] at `times` [F]."""

    def planes(self) -> list[nn.Parameter]:
        """Return the parameters that learn at the rate of feature planes."""
        return []


class Still(Field):
    """No deformation."""

    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return zeros."""
        return Deformation(torch.zeros(len(times), *rest.shape, device=rest.device, dtype=rest.dtype))


class Direct(Field):
    """One path a point: coefficients [P, K, 3] on a basis. Starts at rest."""

    def __init__(self, count: int, basis: Basis) -> None:
        super().__init__()
        self.basis = basis
        self.coefficients = nn.Parameter(torch.zeros(count, basis.size, 3))

    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return the paths. Raises: ShapeError if there are other points than the field was made for."""
        if rest.shape[0] != self.coefficients.shape[0]:
            raise ShapeError("rest", f"[{self.coefficients.shape[0]}, 3] (one path a point)", tuple(rest.shape))
        return Deformation(torch.einsum("fk,pkc->fpc", self.basis.at(times), self.coefficients))


class Nodes(Field):
    """Control nodes that turn and travel; points blend the rigid motions of the nearest ones (linear blend skinning).

    Weights are exp(-d^2 / 2 r^2) of the `nearest` nodes, normalised; the radii r learn.

    Args:
        nodes: [N, 3] where the nodes rest. basis: functions of time. nearest: nodes a point follows.
    Source: SC4D and CHORD (arXiv 2601.04194): control points with Gaussian weights. Deviation: weights are taken at rest
        only.
    """

    nodes: Tensor

    def __init__(self, nodes: Tensor, basis: Basis, nearest: int = 4) -> None:
        super().__init__()
        if nodes.dim() != 2 or nodes.shape[1] != 3 or not len(nodes):
            raise ShapeError("nodes", "[nodes, 3] with at least one node", tuple(nodes.shape))
        self.basis, self.nearest = basis, min(nearest, len(nodes))
        self.register_buffer("nodes", nodes.detach().clone())
        self.rotation = nn.Parameter(torch.zeros(len(nodes), basis.size, 3))
        self.translation = nn.Parameter(torch.zeros(len(nodes), basis.size, 3))
        apart = torch.cdist(nodes.detach(), nodes.detach()) + torch.eye(len(nodes)).to(nodes) * 1e9
        radius = apart.amin(dim=1) if len(nodes) > 1 else torch.ones_like(nodes[:, 0])
        self.log_radius = nn.Parameter(radius.clamp(min=1e-3).log())

    def weights(self, rest: Tensor) -> Tensor:
        """Return [P, N] weights that sum to 1, at most `nearest` of them above 0."""
        squared = (rest[:, None] - self.nodes).square().sum(dim=-1)
        logits = -squared / (2.0 * (2.0 * self.log_radius).exp())
        near = squared.topk(self.nearest, dim=1, largest=False).indices
        kept = torch.full_like(logits, -math.inf).scatter(1, near, logits.gather(1, near))
        return kept.softmax(dim=1)

    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return blended motions and turns."""
        phi = self.basis.at(times)
        vector = torch.einsum("fk,nkc->fnc", phi, self.rotation)
        linear = rotation_from_vector(vector) - torch.eye(3, device=rest.device, dtype=rest.dtype)
        shift = torch.einsum("fk,nkc->fnc", phi, self.translation) - (linear @ self.nodes[:, :, None])[..., 0]
        weights = self.weights(rest)
        blended = torch.einsum("pn,fnij->fpij", weights, linear)
        offsets = (blended @ rest[:, :, None])[..., 0] + torch.einsum("pn,fnc->fpc", weights, shift)
        turns = torch.einsum("pn,fnc->fpc", weights, quaternion_from_vector(vector))
        return Deformation(offsets, turns)


class _Heads(nn.Module):
    """A small network from features to a deformation, minus its value at the last row of features; starts at 0."""

    def __init__(self, channels: int, hidden: int, layers: int, has_shapes: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.network = Mlp(channels, 10 if has_shapes else 3, generator, hidden=hidden, layers=layers, last_gain=0.0)
        self.has_shapes = has_shapes

    def forward(self, features: Tensor) -> Deformation:
        """features: [F + 1, P, channels], the last at the reference time."""
        values = self.network(features)
        change = values[:-1] - values[-1:]
        if not self.has_shapes:
            return Deformation(change)
        upright = torch.zeros_like(change[..., 6:])
        upright[..., 0] = 1.0
        return Deformation(change[..., :3], upright + change[..., 6:], change[..., 3:6])


def _with_reference(times: Tensor, reference: float) -> Tensor:
    """Return times [F + 1] whose last is the reference time."""
    return torch.cat([times, torch.full_like(times[:1], reference)])


SPACE_PAIRS, TIME_PAIRS = ((0, 1), (0, 2), (1, 2)), ((0, 3), (1, 3), (2, 3))
"""Axes of the planes: x, y, z, time."""


class Hexplane(Field):
    """Six planes of features over pairs of (x, y, z, time), multiplied, at several scales; then a network.

    Spatial planes start uniform in [0.1, 0.5], those of time at 1 (nothing depends on time); the network starts at 0.

    Args:
        generator: CPU generator of the start. channels: features of a plane. resolution: cells along x, y, z; times
            each of `scales`. time_resolution: cells along time. radius: the planes cover [-radius, radius]^3, farther
            points take the border's features. hidden: units of the network. has_shapes: also log-scales and turns.
        reference: time of rest.
    Source: 4D Gaussian Splatting (Wu et al. 2024) and DreamGaussian4D's zero heads. Deviation: the value at the
        reference time is subtracted, so that rest is exact after training too; turns multiply instead of adding to
        the quaternion, so that they do not depend on its length.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        channels: int = 32,
        resolution: int = 64,
        time_resolution: int = 25,
        scales: tuple[int, ...] = (1, 2, 4, 8),
        radius: float = 1.6,
        hidden: int = 64,
        has_shapes: bool = True,
        reference: float = 0.0,
    ) -> None:
        super().__init__()
        self.radius, self.reference, self.scales = radius, reference, scales
        self.space, self.time = nn.ParameterList(), nn.ParameterList()
        for scale in scales:
            cells = resolution * scale
            for _ in SPACE_PAIRS:
                start = 0.1 + 0.4 * torch.rand(1, channels, cells, cells, generator=generator)
                self.space.append(nn.Parameter(start))
                self.time.append(nn.Parameter(torch.ones(1, channels, time_resolution, cells)))
        self.heads = _Heads(channels * len(scales), hidden, 1, has_shapes, generator)

    def features(self, rest: Tensor, times: Tensor) -> Tensor:
        """Return [F, P, channels * scales] of points [P, 3] at times [F]."""
        place = (rest / self.radius).clamp(-1.0, 1.0)
        moment = (2.0 * times - 1.0)[:, None].expand(-1, len(rest))
        found = []
        for scale in range(len(self.scales)):
            product = place.new_ones(())
            for number, (a, b) in enumerate(SPACE_PAIRS):
                product = product * _sample(self.space[3 * scale + number], place[None, :, (a, b)])
            for number, (a, _) in enumerate(TIME_PAIRS):
                where = torch.stack([place[:, a].expand_as(moment), moment], dim=-1)
                product = product * _sample(self.time[3 * scale + number], where)
            found.append(product)
        return torch.cat(found, dim=-1)

    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return the network's answer minus that at the reference time."""
        return self.heads(self.features(rest, _with_reference(times, self.reference)))

    def planes(self) -> list[nn.Parameter]:
        """Return all planes."""
        return [*self.space, *self.time]


def _sample(plane: Tensor, where: Tensor) -> Tensor:
    """Return [F, P, C]: plane [1, C, rows, columns] at where [F, P, 2] (column, row) in [-1, 1], corners aligned."""
    values = nn.functional.grid_sample(plane, where[None], padding_mode="border", align_corners=True)
    return values[0].permute(1, 2, 0)


class MlpField(Field):
    """A network of sines and cosines of place and time; its answer minus that at the reference time.

    Args: octaves, time_octaves: frequencies pi 2^0 ... of place (world units) and time. The rest as in `Hexplane`.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        octaves: int = 6,
        time_octaves: int = 4,
        hidden: int = 64,
        layers: int = 3,
        has_shapes: bool = False,
        reference: float = 0.0,
    ) -> None:
        super().__init__()
        self.octaves, self.time_octaves, self.reference = octaves, time_octaves, reference
        channels = 3 * (1 + 2 * octaves) + 1 + 2 * time_octaves
        self.heads = _Heads(channels, hidden, layers, has_shapes, generator)

    def forward(self, rest: Tensor, times: Tensor) -> Deformation:
        """Return the network's answer minus that at the reference time."""
        place, moment = (
            _code(rest, self.octaves),
            _code(_with_reference(times, self.reference)[:, None], self.time_octaves),
        )
        shape = (len(moment), len(place), -1)
        return self.heads(torch.cat([place[None].expand(shape), moment[:, None].expand(shape)], dim=-1))


def _code(values: Tensor, octaves: int) -> Tensor:
    """Return [n, c (1 + 2 octaves)] of values [n, c]: themselves, their sines and cosines."""
    angles = [math.pi * 2.0**octave * values for octave in range(octaves)]
    return torch.cat([values, *itertools.chain.from_iterable((angle.sin(), angle.cos()) for angle in angles)], dim=-1)


def spread_nodes(points: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return [count, 3] of `points` [P, 3], each as far as possible from those before (farthest point sampling).

    Raises: ConfigError for more nodes than points.
    """
    if not 1 <= count <= len(points):
        raise ConfigError(
            f"{count} control nodes were asked for, but the object has {len(points)} points. Give 1 to {len(points)}.",
            "nodes",
        )
    chosen = [int(torch.randint(len(points), (), generator=generator))]
    distance = torch.full_like(points[:, 0], math.inf)
    for _ in range(count - 1):
        distance = torch.minimum(distance, (points - points[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(distance.argmax()))
    return points[chosen].detach().clone()
