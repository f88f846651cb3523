"""Tracks for free: which primitive a pixel shows, and where that primitive goes in a clip."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError

LEAST_ALPHA, MOST_GAP, MOST_PIXELS = 0.75, 0.25, 4.0
"""Where a pixel counts as covered; depth (world units) and distance (pixels) within which a primitive is what it shows.
Source: DreamScene4D's evaluation of tracks."""


class Tracks(NamedTuple):
    """places [Q, F, 2] pixels (x, y), primitive [Q] index, -1 where the query shows nothing (its places are NaN)."""

    places: Tensor
    primitive: Tensor


def follow(queries: Tensor, places: Tensor, depths: Tensor, depth: Tensor, alpha: Tensor) -> Tracks:
    """Return the tracks of pixels of frame 0.

    The primitive of a query is the nearest in the picture among those whose depth is the rendered one: what is hidden
    behind the surface is none. Queries on the background, at an outline (one pixel is eroded) or far from any such
    primitive are refused.

    Args: queries: [Q, 2] pixels (x, y) in frame 0. places, depths: [F, P, 2] and [F, P] of the primitives (in the camera
        of each frame). depth, alpha: [H, W] rendered in frame 0.
    Limits: a primitive keeps its track where it is hidden later on.
    """
    if places.dim() != 3 or depths.shape != places.shape[:2] or depth.shape != alpha.shape:
        raise ShapeError("places", "[frames, primitives, 2] with depths [frames, primitives]", tuple(places.shape))
    height, width = alpha.shape
    covered = (alpha > LEAST_ALPHA).to(alpha)
    inner = 1.0 - nn.functional.max_pool2d(1.0 - covered[None, None], 3, stride=1, padding=1)[0, 0]

    def cell(where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        column, row = where.floor().long().unbind(dim=-1)
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        return row.clamp(0, height - 1), column.clamp(0, width - 1), inside

    row, column, inside = cell(places[0])
    is_seen = inside & ((depths[0] - depth[row, column]).abs() < MOST_GAP)
    distance = torch.cdist(queries, places[0].to(queries)).masked_fill(~is_seen, torch.inf)
    nearest, index = distance.min(dim=1)
    row, column, inside = cell(queries)
    is_found = inside & (inner[row, column] > 0) & (nearest <= MOST_PIXELS)
    tracks = places[:, index].transpose(0, 1)
    return Tracks(tracks.masked_fill(~is_found[:, None, None], torch.nan), torch.where(is_found, index, -1))
