"""Encodings: a point becomes a vector of features that a small network can turn into density, distance or colour."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from renderers.fields.interpolation import trilinear, weighted_rows
from sds3d.errors import ConfigError, ShapeError

PRIMES = (1, 2654435761 - 2**32, 805459861)
"""Factors of the three coordinates in the spatial hash, as 32-bit integers with a sign.
Source: Mueller et al. 2022 (instant-ngp), eq. 4."""
CORNERS = tuple((i, j, k) for i in (0, 1) for j in (0, 1) for k in (0, 1))
"""The corners of a cell along x, y, z, in the order of the table rows."""
INITIAL_SIZE = 1e-4
"""Table rows start uniform in [-INITIAL_SIZE, INITIAL_SIZE]; same source, section 4."""


class Encoding(nn.Module, ABC):
    """A map from points [N, 3] in [-1, 1] to features [N, out_channels]; points outside take the value at the border.

    `levels` counts the resolutions, coarse to fine; with `set_active_levels` the finer ones can be held at 0 at first.
    """

    out_channels: int
    levels: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.active_levels = self.levels

    @abstractmethod
    def forward(self, points: Tensor) -> Tensor:
        """Return features [N, out_channels] of points [N, 3] in [-1, 1]."""

    @abstractmethod
    def with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [N, out_channels] and their derivatives by the point [N, out_channels, 3].

        Both carry first-order gradients to the encoding's parameters, so a loss on normals needs no second derivative.
        Limits: gradients to the points themselves are not promised here; `forward` has them.
        """

    def set_active_levels(self, count: int) -> None:
        """Let only the `count` coarsest levels speak; the features of the others are 0. Clamped to [1, levels]."""
        self.active_levels = min(max(count, 1), self.levels)


class GridEncoding(Encoding):
    """Trilinear interpolation in grids of several resolutions; large ones share the rows of a hash table.

    Args:
        resolutions: cells along an axis, one a level, ascending.
        channels: features a level.
        generator: CPU generator of the initial values.
        log2_table_size: a level with more nodes than 2 ** this is hashed; None: no level is (a dense grid).

    Source: Mueller et al. 2022 (instant-ngp), sections 3 and 4. Deviation: nodes lie on the faces of the box, without
    the half-cell shift. Limits: piecewise trilinear, so its derivative jumps at cell faces.
    """

    def __init__(
        self, resolutions: Sequence[int], channels: int, generator: torch.Generator, log2_table_size: int | None = None
    ) -> None:
        _check_positive(channels=channels, levels=len(resolutions), resolution=min(resolutions, default=0))
        self.levels = len(resolutions)
        super().__init__()
        self.resolutions, self.channels = tuple(int(resolution) for resolution in resolutions), channels
        self.out_channels = self.levels * channels
        nodes = [(resolution + 1) ** 3 for resolution in self.resolutions]
        limit = None if log2_table_size is None else 2**log2_table_size
        self.is_hashed = tuple(limit is not None and count > limit for count in nodes)
        rows = [limit if hashed else count for count, hashed in zip(nodes, self.is_hashed, strict=True)]
        self.starts = tuple(sum(rows[:level]) for level in range(self.levels))  # type: ignore[arg-type]
        self.mask = (limit or 1) - 1
        self.table = nn.Parameter(_initial((sum(rows), channels), generator))  # type: ignore[arg-type]

    # Arrays are laid out [corner, level, point] inside: long runs of points, because operations on many short rows of
    # two or three numbers are several times slower.

    def forward(self, points: Tensor) -> Tensor:
        """Return features [N, levels * channels], level after level."""
        _check_points(points)
        fraction, cell = self._locate(points)
        rows = self._rows(cell).view(8, -1).t().contiguous()
        weights = _product(fraction.flatten(1)).t().contiguous()
        return self._features(weighted_rows(self.table, rows, weights), len(points))

    def with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and derivatives; see `Encoding.with_jacobian`. Costs about twice the features alone."""
        _check_points(points)
        fraction, cell = self._locate(points)
        rows = self._rows(cell).view(8, -1)
        values, slopes = trilinear(self.table, rows, fraction.detach().flatten(1))
        # Outside the box the features are those of the border: they do not change along that axis.
        inside = ((points >= -1) & (points <= 1)).to(points.dtype)
        scale = 0.5 * points.new_tensor(self.resolutions).repeat_interleave(
            self.channels
        )  # cells per unit of the point
        columns = [
            self._features(slope, len(points)) * scale * inside[:, axis, None] for axis, slope in enumerate(slopes)
        ]
        return self._features(values, len(points)), torch.stack(columns).permute(1, 2, 0)

    def _locate(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the place in its cell, in [0, 1], and the cell's lower corner (int32), both [3, L, N]."""
        resolution = points.new_tensor(self.resolutions[: self.active_levels])[:, None]
        place = (points.t().contiguous().clamp(-1, 1)[:, None] + 1) * (0.5 * resolution)
        cell = torch.minimum(place.detach().floor(), resolution - 1)
        return place - cell, cell.int()

    def _rows(self, cell: Tensor) -> Tensor:
        """Return the table rows [8, L, N] int32 of the corners of each cell, z varying fastest over the corners."""
        rows = torch.empty(8, *cell.shape[1:], dtype=torch.int32, device=cell.device)
        for level in range(self.active_levels):
            side, (x, y, z) = self.resolutions[level] + 1, cell[:, level]
            start = self.starts[level]
            if self.is_hashed[level]:
                # Products wrap around, as they should: only their lowest bits are used.
                pairs = [(part * prime, (part + 1) * prime) for part, prime in zip((x, y, z), PRIMES, strict=True)]
                for corner, (i, j, k) in enumerate(CORNERS):
                    rows[corner, level] = ((pairs[0][i] ^ pairs[1][j] ^ pairs[2][k]) & self.mask) + start
            else:
                first = (x * side + y) * side + z + start
                for corner, (i, j, k) in enumerate(CORNERS):
                    rows[corner, level] = first + ((i * side + j) * side + k)
        return rows

    def _features(self, found: Tensor, count: int) -> Tensor:
        """Return [N, out_channels] from [L * N, channels]; levels that are not active give 0."""
        found = found.view(self.active_levels, count, self.channels).transpose(0, 1).flatten(1)
        return nn.functional.pad(found, (0, self.out_channels - found.shape[1]))


class TriplaneEncoding(Encoding):
    """Bilinear interpolation in three planes (xy, xz, yz), multiplied or added feature by feature.

    Args:
        resolution: cells along an axis.
        channels: features, the same on each plane.
        generator: CPU generator of the initial values.
        combine: "sum", "product" or "concat".

    Source: Chan et al. 2022 (EG3D), section 3.3: the sum; products as in Chen et al. 2022 (TensoRF) eq. 3 and K-Planes.
    """

    PLANES = ((0, 1), (0, 2), (1, 2))

    def __init__(self, resolution: int, channels: int, generator: torch.Generator, combine: str = "sum") -> None:
        super().__init__()
        _check_positive(resolution=resolution, channels=channels)
        if combine not in ("sum", "product", "concat"):
            raise ConfigError(f"combine is '{combine}', which is unknown. Use 'sum', 'product' or 'concat'.", "combine")
        self.resolution, self.channels, self.combine = resolution, channels, combine
        self.out_channels = 3 * channels if combine == "concat" else channels
        table = _initial((3 * (resolution + 1) ** 2, channels), generator)
        # A product of three tiny numbers would have no gradient to speak of.
        self.table = nn.Parameter(1.0 + 1e3 * table if combine == "product" else table)

    def forward(self, points: Tensor) -> Tensor:
        """Return features [N, out_channels]."""
        return self._combined([plane[0] for plane in self._planes(points, with_slopes=False)])

    def with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and derivatives; see `Encoding.with_jacobian`."""
        planes = self._planes(points, with_slopes=True)
        values, slopes = [plane[0] for plane in planes], [plane[1] for plane in planes]
        if self.combine == "concat":
            jacobian = torch.cat(slopes, dim=1)
        elif self.combine == "sum":
            jacobian = slopes[0] + slopes[1] + slopes[2]
        else:
            a, b, c = values
            jacobian = slopes[0] * (b * c)[..., None] + slopes[1] * (a * c)[..., None] + slopes[2] * (a * b)[..., None]
        return self._combined(values), jacobian

    def _combined(self, values: list[Tensor]) -> Tensor:
        if self.combine == "concat":
            return torch.cat(values, dim=1)
        return values[0] + values[1] + values[2] if self.combine == "sum" else values[0] * values[1] * values[2]

    def _planes(self, points: Tensor, with_slopes: bool) -> list[tuple[Tensor, Tensor]]:
        """Return (values [N, C], slopes [N, C, 3]) of each plane; slopes are empty if not wanted."""
        _check_points(points)
        place = (points.t().contiguous().clamp(-1, 1) + 1) * (0.5 * self.resolution)
        cell = place.detach().floor().clamp(max=self.resolution - 1)
        fraction, lower = place - cell, cell.int()
        slope = (0.5 * self.resolution * ((points >= -1) & (points <= 1)).to(points.dtype)).t()
        side, result = self.resolution + 1, []
        for number, (first, second) in enumerate(self.PLANES):
            corner = number * side * side + lower[first] * side + lower[second]
            rows = torch.stack([corner, corner + 1, corner + side, corner + side + 1], dim=-1)
            u, v = fraction[first], fraction[second]
            values = weighted_rows(self.table, rows, _product([u, v]).t().contiguous())
            slopes = values.new_zeros(0)
            if with_slopes:
                steep = slope[first], slope[second]
                by_u = torch.stack([-steep[0] * (1 - v), -steep[0] * v, steep[0] * (1 - v), steep[0] * v], dim=-1)
                by_v = torch.stack([-steep[1] * (1 - u), steep[1] * (1 - u), -steep[1] * u, steep[1] * u], dim=-1)
                columns = [torch.zeros_like(values) for _ in range(3)]
                columns[first] = weighted_rows(self.table, rows, by_u)
                columns[second] = weighted_rows(self.table, rows, by_v)
                slopes = torch.stack(columns, dim=-1)
            result.append((values, slopes))
        return result


class FrequencyEncoding(Encoding):
    """The point itself, then sines and cosines of `levels` octaves: x, sin(2^l pi x), cos(2^l pi x).

    Source: Mildenhall et al. 2020 (NeRF), eq. 4, with the point kept. Limits: no border, the waves go on outside.
    """

    def __init__(self, levels: int) -> None:
        _check_positive(levels=levels)
        self.levels = levels
        super().__init__()
        self.out_channels = 3 + 6 * levels

    def forward(self, points: Tensor) -> Tensor:
        """Return [N, 3 + 6 levels]."""
        return self.with_jacobian(points)[0]

    def with_jacobian(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and derivatives; see `Encoding.with_jacobian`."""
        _check_points(points)
        octave = math.pi * 2.0 ** torch.arange(self.levels, device=points.device).to(points.dtype)
        active = (torch.arange(self.levels, device=points.device) < self.active_levels).to(points.dtype)
        phase = points[:, None] * octave[:, None]  # [N, L, 3]
        sine, cosine = phase.sin() * active[:, None], phase.cos() * active[:, None]
        waves = torch.stack([sine, cosine], dim=2)  # [N, L, 2, 3]
        slopes = torch.stack([cosine, -sine], dim=2) * octave[:, None, None]
        unit = torch.eye(3, dtype=points.dtype, device=points.device)
        rest = (slopes[..., None] * unit).flatten(1, 3)
        return (
            torch.cat([points, waves.flatten(1)], dim=1),
            torch.cat([unit.expand(len(points), 3, 3), rest], dim=1),
        )


def through(gradient: Tensor, jacobian: Tensor) -> Tensor:
    """Return [N, 3] by the chain rule: a gradient by features [N, C] times their derivatives [N, C, 3] by the point."""
    return torch.stack([(gradient * column).sum(dim=1) for column in jacobian.unbind(dim=-1)], dim=1)


def geometric_resolutions(base: int, finest: int, levels: int) -> tuple[int, ...]:
    """Return `levels` resolutions from `base` to `finest` in a geometric series (instant-ngp eq. 2 and 3)."""
    _check_positive(base=base, finest=finest, levels=levels)
    if levels == 1:
        return (base,)
    growth = (finest / base) ** (1.0 / (levels - 1))
    return tuple(math.floor(base * growth**level + 1e-6) for level in range(levels))


def _product(fraction: Tensor | Sequence[Tensor]) -> Tensor:
    """Return the weights [2^D, M] of all corners, the last axis varying fastest, for a place [D, M] in a cell."""
    total = [torch.ones_like(fraction[0])]
    for part in fraction:
        total = [weight * end for weight in total for end in (1 - part, part)]
    return torch.stack(total)


def _initial(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return (torch.rand(shape, generator=generator) * 2 - 1) * INITIAL_SIZE


def _check_points(points: Tensor) -> None:
    if points.ndim != 2 or points.shape[1] != 3:
        raise ShapeError("points", "[N, 3]", tuple(points.shape))


def _check_positive(**numbers: int) -> None:
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} is {value}, but at least 1 is needed. Give a positive number.", name)
