"""A triplane's field worked out once at the nodes of a grid, and interpolated from there: many times cheaper than at points.

At texel centres the features of a triplane need no lookup: they are a sum of three pictures, each repeated along the axis it is
seen along. So distances and colours of n^3 nodes cost as much as those of n^3 points, however many rays and views read them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError
from sds3d.generators.base import Planes
from sds3d.generators.heads import FieldHeads


@dataclass(frozen=True)
class GridField:
    """The field of B objects, trilinear between nodes; beyond the outermost nodes their values stay.

    Interface and units as `renderers.triplane.Field`; the two agree at nodes and differ between them, where heads are not linear.

    Args:
        values: [B, 4, z, y, x] at the centres of equal cells of the box [-radius, radius]^3: what is added to the distance from
            the sphere, world units, then three colours in [0, 1]; see `grid_values`.
        start_radius: of that sphere.
    """

    values: Tensor
    radius: float = 1.0
    start_radius: float = 0.5

    @classmethod
    def of(cls, planes: Planes) -> GridField:
        """Return the field of some triplanes."""
        return cls(grid_values(planes), planes.radius, planes.start_radius)

    def __len__(self) -> int:
        return len(self.values)

    def both(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return signed distances [B, N], world units, and colours [B, N, 3] of points [B, N, 3]."""
        found = self._read(self.values, points)
        return found[:, 0] + self._sphere(points), found[:, 1:].transpose(1, 2)

    def sdf(self, points: Tensor) -> Tensor:
        """Return signed distances [B, N], world units."""
        return self._read(self.values[:, :1], points)[:, 0] + self._sphere(points)

    def colour(self, points: Tensor) -> Tensor:
        """Return colours [B, N, 3]."""
        return self.both(points)[1]

    def _read(self, values: Tensor, points: Tensor) -> Tensor:
        where = (points / self.radius)[:, :, None, None]  # [B, N, 1, 1, 3]
        found = nn.functional.grid_sample(values, where, "bilinear", "border", align_corners=False)
        return found.flatten(2)

    def _sphere(self, points: Tensor) -> Tensor:
        return (points.square().sum(dim=-1) + 1e-12).sqrt() - self.start_radius


def grid_values(planes: Planes) -> Tensor:
    """Return [B, 4, z, y, x] at texel centres: what the distance head adds to the sphere, and colours.

    The first layer of a head is linear without bias, so it is applied to the planes, before they are repeated and added: the
    same numbers for less work. Raises: ShapeError unless planes are square.
    """
    if planes.geometry.shape[-1] != planes.geometry.shape[-2]:
        raise ShapeError("planes", "[B, 3, C, n, n]", tuple(planes.geometry.shape))
    heads: FieldHeads = planes.heads  # type: ignore[assignment]
    shape, colour = heads.distance_head, heads.colour_head
    first: Tensor = shape[0].weight  # type: ignore[assignment]  # [hidden, C], for all planes: their features are added
    distance = shape[1:](_repeated([_entered(planes.geometry[:, i], first) for i in range(3)]))
    wide: Tensor = colour[0].weight  # type: ignore[assignment]
    parts = wide.chunk(3, dim=1)  # one a plane because their features lie side by side
    entered = _repeated([_entered(planes.texture[:, i], part) for i, part in enumerate(parts)])
    colours = heads.finished(colour[1:](entered))
    return torch.cat([planes.within_reach(distance), colours], dim=-1).movedim(-1, 1).contiguous()


def _entered(plane: Tensor, weight: Tensor) -> Tensor:
    """Return a plane [B, C, n, n] through a linear layer: [B, n, n, hidden]."""
    return torch.einsum("bcij,hc->bijh", plane, weight)


def _repeated(entered: list[Tensor]) -> Tensor:
    """Return [B, z, y, x, hidden], the sum of the planes xy, xz and yz [B, n, n, hidden], each along its own axis.

    Rows and columns of the three run along (x, y), (-z, -x) and (-z, y), see `renderers.triplane_sampling`.
    """
    top, side, front = entered
    return top.transpose(1, 2)[:, None] + side.flip(1, 2)[:, :, None] + front.flip(1)[:, :, :, None]
