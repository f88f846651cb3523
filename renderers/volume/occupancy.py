"""A coarse grid that knows where a field is empty, so that samples are spent where something is."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from renderers.volume.rays import Rays
from renderers.volume.samples import Samples

CANDIDATES_AT_A_TIME = 2**22
"""Places looked up in the grid at a time: bounds memory, not the result."""


class OccupancyGrid(nn.Module):
    """Cells of the box [-radius, radius]^3 with a remembered value and whether they count as occupied.

    Args:
        resolution: cells along an axis.
        radius: half the side of the box, world units.
        decay: what is left of a remembered value after an update that looked at the cell.
        threshold: a cell is occupied if its value exceeds this or the mean of all, whichever is less.
        grow: neighbours of such a cell count as occupied too, so that what is there can grow.

    Everything is occupied until the first update. Both buffers are in the state dict.
    Source: Mueller et al. 2022 (instant-ngp), appendix C; the threshold's mean as in nerfacc.
    Limits: a value is that of random points; a feature thinner than a cell may be missed until a later update.
    """

    values: Tensor
    occupied: Tensor

    def __init__(
        self, resolution: int, radius: float, decay: float = 0.95, threshold: float = 0.01, grow: bool = False
    ) -> None:
        super().__init__()
        self.resolution, self.radius, self.decay, self.threshold = resolution, radius, decay, threshold
        self.grow = grow
        self.register_buffer("values", torch.zeros(resolution**3))
        self.register_buffer("occupied", torch.ones(resolution**3, dtype=torch.bool))

    @property
    def cell(self) -> float:
        """Side of a cell, world units."""
        return 2.0 * self.radius / self.resolution

    def occupied_at(self, points: Tensor) -> Tensor:
        """Return [...] bool for points [..., 3]; points outside the box are in no cell."""
        place = (points + self.radius) * (1.0 / self.cell)
        inside = ((place >= 0) & (place <= self.resolution)).all(dim=-1)
        cell = place.long().clamp(0, self.resolution - 1)
        number = (cell[..., 0] * self.resolution + cell[..., 1]) * self.resolution + cell[..., 2]
        return self.occupied[number] & inside

    @torch.no_grad()
    def update(
        self,
        evaluate: Callable[[Tensor], Tensor],
        generator: torch.Generator,
        share: float = 1.0,
        centred: bool = False,
    ) -> None:
        """Look at a random point, or the centre, of each of a random `share` of the cells.

        evaluate: points [M, 3] -> values [M] >= 0. generator: CPU generator; what is drawn does not depend on the
        device. No value leaves the device.
        """
        total, device = len(self.values), self.values.device
        count = total if share >= 1.0 else max(1, round(share * total))
        cells = torch.arange(total) if share >= 1.0 else torch.randperm(total, generator=generator)[:count]
        inside = 0.5 if centred else torch.rand(count, 3, generator=generator).to(device)
        cells = cells.to(device)
        side = self.resolution
        lower = torch.stack([cells // (side * side), cells // side % side, cells % side], dim=-1)
        found = evaluate((lower + inside) * self.cell - self.radius)
        self.values[cells] = torch.maximum(self.values[cells] * self.decay, found.to(self.values.dtype))
        limit = self.values.mean().clamp(max=self.threshold)
        found = self.values > limit
        if self.grow:
            block = found.to(self.values.dtype).view(1, 1, side, side, side)
            found = nn.functional.max_pool3d(block, 3, stride=1, padding=1).view(-1) > 0
        self.occupied.copy_(found)

    @torch.no_grad()
    def sample(self, rays: Rays, count: int, jitter: Tensor) -> Samples:
        """Return the samples at equal steps (the box's diagonal / count) that fall into occupied cells.

        jitter: [R] in [0, 1), the place in a step. If it is uniform, each place on a ray is sampled with the same
        density, so the sum of f * width is an unbiased estimate of the integral of f over the occupied cells.
        Limits: the number of samples depends on the values, so this cannot run on the meta device: use `uniform`.
        """
        step = 2.0 * 3.0**0.5 * self.radius / count
        at_a_time = max(1, CANDIDATES_AT_A_TIME // count)
        places = torch.arange(count, device=jitter.device, dtype=rays.near.dtype)
        found = []
        for first in range(0, len(rays), at_a_time):
            some, part = rays[first : first + at_a_time], jitter[first : first + at_a_time]
            distance = torch.addcmul(some.near[:, None], places + part[:, None], places.new_tensor(step))
            hit = self.occupied.index_select(0, self._cells_along(some, distance).view(-1)).view(distance.shape)
            ray, index = (hit & (distance < some.far[:, None])).nonzero(as_tuple=True)
            found.append((ray + first, distance[ray, index]))
        ray = torch.cat([rows for rows, _ in found])
        distance = torch.cat([values for _, values in found])
        return Samples(ray, distance, torch.full_like(distance, step))

    def _cells_along(self, rays: Rays, distance: Tensor) -> Tensor:
        """Return [R, K] int32 numbers of the cells at `distance` [R, K]; axis by axis, which saves memory and time."""
        number = torch.zeros_like(distance, dtype=torch.int32)
        for axis in range(3):
            origin = (rays.origins[:, axis, None] + self.radius) / self.cell
            place = torch.addcmul(origin, distance, rays.directions[:, axis, None] / self.cell)
            number = number * self.resolution + place.clamp_(0, self.resolution - 1).int()
        return number
