"""Which face lies beyond each edge of a face."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes import checks

VERTICES = 2**31
"""A mesh has fewer vertices than this: two of their numbers fit into one int64."""


@torch.no_grad()
def neighbours(faces: Tensor) -> Tensor:
    """Return [F, 3] int64: the face that shares the edge opposite to corner k, or -1 if there is none.

    Faces are neighbours if they name the same two vertices: weld a mesh first (`weld`). Where an edge belongs to more than
    two faces, they are paired in order of their rows and an odd one is left alone.
    Computed on the CPU or any device without waiting for values; depends on faces only, so keep it while they stay.
    """
    checks.check_faces(faces, faces)
    count = faces.shape[0]
    ends = torch.stack([faces.roll(-1, 1), faces.roll(-2, 1)], dim=-1)  # [F, 3, 2], edge k is opposite to corner k
    low, high = ends.amin(dim=-1).flatten(), ends.amax(dim=-1).flatten()
    if not count:
        return faces.new_empty(0, 3)
    edges, order = torch.sort(low * VERTICES + high, stable=True)
    is_same = edges[1:] == edges[:-1]  # as the one before
    place = torch.arange(3 * count, device=faces.device)
    starts_run = torch.cat([torch.ones_like(is_same[:1]), ~is_same])
    start = torch.where(starts_run, place, torch.zeros_like(place)).cummax(dim=0).values
    is_first = (place - start) % 2 == 0
    has_next = torch.cat([is_same, torch.zeros_like(is_same[:1])])
    partner = torch.where(is_first, torch.where(has_next, place + 1, -1), place - 1)
    beyond = torch.where(partner >= 0, order[partner.clamp_min(0)] // 3, -1)
    return torch.empty_like(beyond).scatter_(0, order, beyond).view(count, 3)


@torch.no_grad()
def weld(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return (rows [V'] int64 of `vertices` that are kept, faces [F, 3] naming them): equal positions become one vertex.

    vertices: [V, 3]. Take positions as vertices[rows]; attributes with seams keep their own faces.
    """
    unique, inverse = torch.unique(vertices, dim=0, return_inverse=True)
    rows = torch.full((len(unique),), len(vertices), dtype=torch.int64, device=vertices.device)
    rows = rows.scatter_reduce(0, inverse, torch.arange(len(vertices), device=vertices.device), "amin")
    return rows, inverse[faces]
