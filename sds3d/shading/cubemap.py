"""Reading cube maps at any direction and between levels, without seams."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sds3d.errors import ShapeError
from sds3d.shading import directions


def check_cubemap(cubemap: Tensor, name: str = "cubemap") -> None:
    """Raise ShapeError unless `cubemap` is [6, R, R, C]."""
    if cubemap.dim() != 4 or cubemap.shape[0] != 6 or cubemap.shape[1] != cubemap.shape[2]:
        raise ShapeError(name, "[6, R, R, channels]", tuple(cubemap.shape))


def bordered(levels: Tensor) -> Tensor:
    """Return an atlas [1, C, L, 6 (R + 2), R + 2] of cube maps `levels` [L, 6, R, R, C], for `lookup`.

    The faces stand one above the other, each with a border of one texel that continues its plane over its neighbours. What
    is there is interpolated from them with two or four positive weights, to second order in the size of a texel, so that a
    bilinear reading needs no face but its own.
    """
    count, _, resolution, _, channels = levels.shape
    source, weight = _border(resolution)
    source, weight = source.to(levels.device), weight.to(levels.device, levels.dtype)
    flat = levels.reshape(count, 6 * resolution * resolution, channels)
    taps = flat.index_select(1, source.flatten()).view(count, *source.shape, channels)
    extended = torch.cat([flat, (taps * weight[..., None]).sum(dim=2)], dim=1)
    atlas = extended.index_select(1, _order(resolution).to(levels.device))
    return atlas.view(1, count, 6 * (resolution + 2), resolution + 2, channels).permute(0, 4, 1, 2, 3)


def lookup(atlas: Tensor, direction: Tensor, level: Tensor | None = None) -> Tensor:
    """Return what cube maps hold at directions, [..., C]; bilinear in the texels, linear between levels.

    Args:
        atlas: from `bordered`. direction: [..., 3] any length.
        level: [..., 1] in [0, L - 1]; None: level 0.

    Differentiable in all three.
    """
    _, channels, count, rows, columns = atlas.shape
    resolution = columns - 2
    face, x, y = directions.face_places(direction)
    column = (x + 1.0) * (0.5 * resolution) + 0.5
    row = (y + 1.0) * (0.5 * resolution) + 0.5 + (face * (resolution + 2)).to(y.dtype)
    place = [column * (2.0 / (columns - 1)) - 1.0, row * (2.0 / (rows - 1)) - 1.0]
    if level is None or count == 1:
        grid = torch.stack(place, dim=-1).reshape(1, 1, -1, 2)
        found = torch.nn.functional.grid_sample(atlas[:, :, 0], grid, align_corners=True, padding_mode="border")
    else:
        depth = level[..., 0].expand_as(column) * (2.0 / (count - 1)) - 1.0
        grid = torch.stack([*place, depth], dim=-1).reshape(1, 1, 1, -1, 3)
        found = torch.nn.functional.grid_sample(atlas, grid, align_corners=True, padding_mode="border")
    return found.reshape(channels, -1).T.reshape(*direction.shape[:-1], channels)


def halved(cubemap: Tensor) -> Tensor:
    """Return [6, R/2, R/2, C], the mean of every 2 x 2 texels of [6, R, R, C] by their solid angles."""
    check_cubemap(cubemap)
    resolution, channels = cubemap.shape[1], cubemap.shape[3]
    area = directions.cube_solid_angles(resolution).to(cubemap.device, cubemap.dtype)[..., None]
    blocks = (cubemap * area).view(6, resolution // 2, 2, resolution // 2, 2, channels).sum(dim=(2, 4))
    return blocks / area.view(6, resolution // 2, 2, resolution // 2, 2, 1).sum(dim=(2, 4))


@functools.lru_cache(maxsize=16)
def _order(resolution: int) -> Tensor:
    """Return, for each texel of the atlas, its row in (texels of the faces, then border texels)."""
    size = resolution + 2
    is_inside = torch.zeros(6, size, size, dtype=torch.bool)
    is_inside[:, 1:-1, 1:-1] = True
    order = torch.empty(6, size, size, dtype=torch.int64)
    inner = 6 * resolution * resolution
    order[is_inside] = torch.arange(inner)
    order[~is_inside] = torch.arange(inner, 6 * size * size)
    return order.flatten()


@functools.lru_cache(maxsize=16)
def _border(resolution: int) -> tuple[Tensor, Tensor]:
    """Return for each border texel, in the order of `_order`, the texels it is made of and their weights, both [M, 8]."""
    place = (torch.arange(resolution + 2, dtype=torch.float64) - 0.5) * (2.0 / resolution) - 1.0
    y, x = torch.meshgrid(place, place, indexing="ij")
    is_border = (x.abs() > 1.0) | (y.abs() > 1.0)
    x, y = x[is_border].repeat(6), y[is_border].repeat(6)
    face = torch.arange(6).repeat_interleave(len(x) // 6)
    vector = directions.face_directions(face, x, y)
    is_corner = (x.abs() > 1.0) & (y.abs() > 1.0)
    others = ((face // 2 + 1) % 3, (face // 2 + 2) % 3)
    # Beyond an edge there is one neighbour (seen twice here), beyond a corner there are two, and their mean is taken.
    size = torch.stack([vector.abs().gather(1, axis[:, None])[:, 0] for axis in others])
    across = [torch.where(is_corner | (size[i] > size[1 - i]), others[i], others[1 - i]) for i in range(2)]
    taps = [_bilinear(_beside(vector, face // 2, axis, is_corner, resolution), resolution) for axis in across]
    return torch.cat([index for index, _ in taps], dim=1), 0.5 * torch.cat([weight for _, weight in taps], dim=1)


def _beside(vector: Tensor, own: Tensor, axis: Tensor, is_corner: Tensor, resolution: int) -> Tensor:
    """Return the places [M, 3] on the neighbour across `axis`, moved into the centres of its outermost texels.

    The way to these centres is of second order beyond an edge. Beyond a corner the mean of the two neighbours would lie
    half a texel further out than the place wanted, so each is taken half a texel further in along their common edge.
    """
    inward = 1.0 - 1.0 / resolution
    place = vector / vector.abs().gather(1, axis[:, None])
    is_own = torch.nn.functional.one_hot(own, 3).bool()
    place = torch.where(is_own & is_corner[:, None], place * (1.0 - 0.5 / resolution), place)
    is_axis = torch.nn.functional.one_hot(axis, 3).bool()
    return torch.where(is_axis, place, place.clamp(-inward, inward))


def _bilinear(place: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
    """Return the four texels (of 6 R^2) about places [M, 3] on the cube and their weights, [M, 4] each."""
    face, x, y = directions.face_places(place)
    taps: list[tuple[tuple[Tensor, Tensor], ...]] = []
    for coordinate in (y, x):
        texel = ((coordinate + 1.0) * (0.5 * resolution) - 0.5).clamp(0, resolution - 1)
        low = texel.floor()
        high = (low + 1).clamp_max(resolution - 1)
        taps.append(((low.long(), 1.0 - (texel - low)), (high.long(), texel - low)))
    pairs = [(row, column) for row in taps[0] for column in taps[1]]
    index = [(face * resolution + row[0]) * resolution + column[0] for row, column in pairs]
    return torch.stack(index, dim=1), torch.stack([row[1] * column[1] for row, column in pairs], dim=1)
