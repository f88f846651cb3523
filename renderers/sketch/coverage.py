"""Draw polylines with soft edges, differentiably: a plain reference and a fast path with the same numbers.

For each stroke and pixel the nearest piece of the polyline counts (smallest distance minus radius). Where on the piece
the nearest point is, is differentiated too: the distance does not change with it to first order, but radius and depth
do. Strokes are composited front to back in the order of their depth at the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from renderers.sketch.kernels import KERNELS, reach
from renderers.sketch.projection import Polylines
from sds3d.errors import ConfigError, nearest

Backend = Literal["auto", "dense", "culled"]
BACKENDS = ("auto", "dense", "culled")
_SHORTEST = 1e-4
"""Squared pixels: pieces shorter than a hundredth of a pixel are treated as that long."""
_MOST_OPAQUE = 1.0 - 1e-6
_CHUNK = 1 << 24
"""Distances the reference holds at once."""


@dataclass(frozen=True)
class Drawing:
    """What strokes leave in B pictures, before the background.

    Args:
        rgb: [B, H, W, 3] colours times how much of them is seen. alpha: [B, H, W, 1] in [0, 1).
        depth: [B, H, W, 1] mean camera z of what is seen, 0 where there is no ink.
    """

    rgb: Tensor
    alpha: Tensor
    depth: Tensor


def closest(pixel: Tensor, start: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distance [...] of points [..., 2] from pieces with ends [..., 2], and where in [0, 1] on the piece."""
    along, towards = end - start, pixel - start
    where = ((towards * along).sum(dim=-1) / along.square().sum(dim=-1).clamp_min(_SHORTEST)).clamp(0.0, 1.0)
    rest = towards - where[..., None] * along
    return (rest.square().sum(dim=-1) + 1e-12).sqrt(), where


def draw(
    lines: Polylines,
    opacity: Tensor,
    colour: Tensor,
    height: int,
    width: int,
    *,
    kernel: str = "gauss",
    softness: float = 0.5,
    backend: str = "auto",
) -> Drawing:
    """Draw with the named path; "auto" is `culled` on the CPU and `dense` elsewhere. Arguments as `dense`.

    Raises: ConfigError for an unknown kernel or backend, or a softness that is not above 0.
    """
    for name, word, allowed in (("kernel", kernel, tuple(KERNELS)), ("backend", backend, BACKENDS)):
        if word not in allowed:
            raise ConfigError(f"{name} is '{word}', which is unknown. Use {nearest(word, allowed)}.", name)
    if not softness > 0:
        raise ConfigError(f"softness is {softness}, but must be above 0 pixels. Use 0.5.", "softness")
    is_culled = backend == "culled" or (backend == "auto" and lines.xy.device.type == "cpu")
    paint = culled if is_culled else dense
    return paint(lines, opacity, colour, height, width, kernel=kernel, softness=softness)


def dense(
    lines: Polylines,
    opacity: Tensor,
    colour: Tensor,
    height: int,
    width: int,
    *,
    kernel: str = "gauss",
    softness: float = 0.5,
) -> Drawing:
    """Compare every pixel with every piece of every stroke: fixed shapes, any device.

    Args:
        lines: N strokes in B views. opacity: [N] in [0, 1]. colour: [N, 3] sRGB. softness: pixels.
    Limits: time and memory grow with pixels x strokes, however small they are.
    """
    views = [
        _dense_view(
            Polylines(lines.xy[b], lines.depth[b], lines.radius[b], lines.is_drawn[b]),
            opacity,
            colour,
            height,
            width,
            kernel,
            softness,
        )
        for b in range(lines.xy.shape[0])
    ]
    rgb, alpha, depth = (torch.stack(values) for values in zip(*views, strict=True))
    return Drawing(rgb, alpha, depth)


def _dense_view(
    lines: Polylines, opacity: Tensor, colour: Tensor, height: int, width: int, kernel: str, softness: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rgb [H, W, 3], alpha and depth [H, W, 1] of one view; its fields have no view axis."""
    xy = lines.xy
    rows = torch.arange(height, device=xy.device, dtype=xy.dtype) + 0.5
    columns = torch.arange(width, device=xy.device, dtype=xy.dtype) + 0.5
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).view(1, -1, 2)
    piece = _nearest_pieces(lines, grid)  # [N, HW]

    def at(values: Tensor, offset: int) -> Tensor:
        return values.gather(1, piece + offset)

    start = torch.stack([at(xy[..., 0], 0), at(xy[..., 1], 0)], dim=-1)
    end = torch.stack([at(xy[..., 0], 1), at(xy[..., 1], 1)], dim=-1)
    distance, where = closest(grid, start, end)
    radius = at(lines.radius, 0).lerp(at(lines.radius, 1), where)
    depth = at(lines.depth, 0).lerp(at(lines.depth, 1), where)
    ink = KERNELS[kernel](distance, radius, softness) * opacity[:, None]
    ink = torch.where(lines.is_drawn.gather(1, piece), ink, torch.zeros_like(ink)).clamp_max(_MOST_OPAQUE)
    order = depth.detach().argsort(dim=0, stable=True)
    ink, depth = ink.gather(0, order), depth.gather(0, order)
    passing = torch.log1p(-ink)
    seen = ink * (passing.cumsum(dim=0) - passing).exp()  # [N, HW]
    alpha = -torch.expm1(passing.sum(dim=0))
    rgb = torch.stack([(seen * colour[:, c][order]).sum(dim=0) for c in range(3)], dim=-1)
    mean_depth = (seen * depth).sum(dim=0) / alpha.clamp_min(1e-6)
    shape = (height, width, 1)
    return rgb.view(height, width, 3), alpha.view(shape), mean_depth.view(shape)


@torch.no_grad()
def _nearest_pieces(lines: Polylines, grid: Tensor) -> Tensor:
    """Return [N, HW], for each stroke and pixel the piece with the smallest distance minus radius."""
    count, places = lines.radius.shape
    step = max(1, _CHUNK // (grid.shape[1] * (places - 1)))
    found = []
    for first in range(0, count, step):
        part = slice(first, first + step)
        start, end = lines.xy[part, :-1, None], lines.xy[part, 1:, None]  # [n, S, 1, 2]
        distance, where = closest(grid[:, None], start, end)
        gap = distance - lines.radius[part, :-1, None].lerp(lines.radius[part, 1:, None], where)
        gap = torch.where(lines.is_drawn[part, :, None], gap, torch.full_like(gap, torch.inf))
        found.append(gap.argmin(dim=1))
    return torch.cat(found)


def culled(
    lines: Polylines,
    opacity: Tensor,
    colour: Tensor,
    height: int,
    width: int,
    *,
    kernel: str = "gauss",
    softness: float = 0.5,
) -> Drawing:
    """Draw only where strokes are: pairs of strokes and pixels are found by compiled code on the CPU.

    Arguments as `dense`; ink below 2e-8 is left out. Limits: the number of pairs depends on values, so only for tensors
    on the CPU; the first call compiles for some seconds, later runs read numba's cache.
    """
    views, count, places = lines.radius.shape
    stroke, pixel, piece = _pairs(lines, height, width, reach(kernel, softness))
    row = stroke * places + piece
    ends = torch.cat([lines.xy, lines.radius[..., None], lines.depth[..., None]], dim=-1).view(-1, 4)
    start, end = ends.index_select(0, row), ends.index_select(0, row + 1)
    local = pixel % (height * width)
    at = torch.stack([local % width, local // width], dim=-1).to(ends.dtype) + 0.5
    distance, where = closest(at, start[:, :2], end[:, :2])
    middle = start[:, 2:].lerp(end[:, 2:], where[:, None])
    number = stroke % count
    ink = KERNELS[kernel](distance, middle[:, 0], softness) * opacity.index_select(0, number)
    return _composite(
        ink.clamp_max(_MOST_OPAQUE), middle[:, 1], colour.index_select(0, number), pixel, (views, height, width)
    )


def _pairs(lines: Polylines, height: int, width: int, beyond: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return int64 (stroke, counted over views; pixel, counted over views; piece), sorted by stroke."""
    from renderers.sketch.search import search  # numba takes half a second to import

    found = []
    views, count = lines.radius.shape[:2]
    # Contiguous, because another layout would be compiled for again.
    xy, radius, is_drawn = (x.detach().contiguous().numpy() for x in (lines.xy, lines.radius, lines.is_drawn))
    for view in range(views):
        stroke, pixel, piece = search(xy[view], radius[view], is_drawn[view], height, width, beyond, _SHORTEST)
        offset = torch.tensor([[view * count], [view * height * width], [0]])
        found.append(torch.stack([torch.from_numpy(x).long() for x in (stroke, pixel, piece)]) + offset)
    stroke, pixel, piece = torch.cat(found, dim=1)
    return stroke, pixel, piece


def _composite(ink: Tensor, depth: Tensor, colour: Tensor, pixel: Tensor, shape: tuple[int, int, int]) -> Drawing:
    """Composite pairs front to back; `pixel` [K] counts over all views."""
    from renderers.sketch.search import front_to_back

    pixels = shape[0] * shape[1] * shape[2]
    order = torch.from_numpy(front_to_back(pixel.numpy(), depth.detach().contiguous().numpy(), pixels))
    ink, depth, colour, pixel = (x.index_select(0, order) for x in (ink, depth, colour, pixel))
    passing = torch.log1p(-ink)
    is_first = torch.ones_like(pixel, dtype=torch.bool)
    is_first[1:] = pixel[1:] != pixel[:-1]
    before = passing.double().cumsum(dim=0) - passing.double()  # one sum over all pixels: float32 would not hold it
    group = is_first.cumsum(dim=0) - 1
    before = before - before[is_first].index_select(0, group)
    seen = ink * before.to(ink.dtype).exp()
    values = torch.cat([colour * seen[:, None], (depth * seen)[:, None], passing[:, None]], dim=1)
    total = values.new_zeros(pixels, 5).index_add(0, pixel, values).view(*shape, 5)
    alpha = -torch.expm1(total[..., 4:])
    return Drawing(total[..., :3], alpha, total[..., 3:4] / alpha.clamp_min(1e-6))
