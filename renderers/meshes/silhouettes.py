"""Between which pixels does a surface end, and at which of its edges?

From the nearer of two neighbouring pixels we walk over the surface, face by face, towards the other one. If the walk comes
to an edge where the surface ends or folds back before it arrives, that edge is the silhouette between the two pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from renderers.meshes import cpu
from renderers.meshes.fragments import Fragments

STEPS = 32
"""Faces a walk visits at most. 1 looks at the pixel's own face only, as nvdiffrast does; more also finds silhouettes of faces
that are smaller than a pixel, and at the rim of a round object they all are."""


class Silhouettes(NamedTuple):
    """The P pairs of neighbouring pixels with a silhouette between them (others have weight 0).

    Args:
        near, far: [P] int64 flat index (camera, row, column) of the pixel whose surface ends and of its neighbour.
        begin, end: [P] int64 flat index (camera, vertex) of the two ends of the silhouette edge.
        is_found: [P] bool. False where there is none after all: on a GPU all pairs are carried along, so that it need not
            wait to learn how many there are.
    """

    near: Tensor
    far: Tensor
    begin: Tensor
    end: Tensor
    is_found: Tensor


class _Walk(NamedTuple):
    """Where walks stand: the camera and face of each, and the clip points (x / w, y / w, 1) it comes from and goes to."""

    camera: Tensor
    face: Tensor
    start: Tensor
    goal: Tensor


@torch.no_grad()
def find(fragments: Fragments, clip: Tensor, faces: Tensor, beyond: Tensor, steps: int = STEPS) -> Silhouettes:
    """Return the silhouettes between horizontally and vertically neighbouring pixels of [B, H, W] fragments.

    clip: [B, V, 4]. faces: [F, 3]. beyond: [F, 3], see `edges.neighbours`. steps: see `STEPS`.
    Only edges nearer to the vertical count between horizontal neighbours, and the others between vertical ones, so that a
    silhouette is seen once in every row or column it crosses.
    Limits: off the CPU's compiled path, every pair that sees two faces is carried through all steps.
    """
    if clip.device.type == "cpu" and clip.dtype == torch.float32 and cpu.probe() == "available":
        return _find_compiled(fragments, clip, faces, beyond, steps)
    return find_reference(fragments, clip, faces, beyond, steps)


def _find_compiled(fragments: Fragments, clip: Tensor, faces: Tensor, beyond: Tensor, steps: int) -> Silhouettes:
    """Return what `find_reference` returns, in another order."""
    found = cpu.silhouette_edges(fragments.face, fragments.depth.detach(), clip, faces, beyond, steps)
    width = found.shape[2]
    found = found.flatten()
    place = (found >= 0).nonzero().squeeze(1)
    code, pixel = found[place], place // 2
    other = pixel + torch.where(place % 2 == 0, 1, width)
    is_far = code % 2 == 0  # the neighbour is
    camera = pixel // (fragments.face.shape[1] * width)
    corners, k = faces[code // 6], (code // 2 % 3)[:, None]
    begin, end = (torch.gather(corners, 1, (k + step) % 3).squeeze(1) + camera * clip.shape[1] for step in (1, 2))
    near, far = torch.where(is_far, pixel, other), torch.where(is_far, other, pixel)
    return Silhouettes(near, far, begin, end, torch.ones_like(is_far))


@torch.no_grad()
def find_reference(fragments: Fragments, clip: Tensor, faces: Tensor, beyond: Tensor, steps: int) -> Silhouettes:
    """Return what `find` returns, in plain torch, all walks one step after the other."""
    near, far, is_row = _pairs(fragments)
    height, width = fragments.face.shape[1:]
    camera = near // (height * width)
    face = fragments.face.flatten()[near]
    is_active = (face >= 0) & (face != fragments.face.flatten()[far])
    wide = clip.to(torch.float32 if clip.device.type == "mps" else torch.float64)
    walk = _Walk(camera, face.clamp_min(0), _points(near, height, width, wide), _points(far, height, width, wide))
    count = clip.shape[1]
    begin, end, is_found = torch.zeros_like(near), torch.zeros_like(near), torch.zeros_like(is_active)
    for _ in range(steps):
        if near.device.type == "cpu" and not is_active.any():
            break
        following, ends, is_crossed, is_silhouette, is_steep = _step(walk, wide, faces, beyond, height, width)
        fits = is_active & is_crossed & is_silhouette & (is_steep == is_row)
        begin, end = (
            torch.where(fits, ends[0] + camera * count, begin),
            torch.where(fits, ends[1] + camera * count, end),
        )
        is_found = is_found | fits
        is_active = is_active & is_crossed & ~is_silhouette
        walk = walk._replace(face=following)
    return Silhouettes(*_kept(is_found, near, far, begin, end))


def _pairs(fragments: Fragments) -> tuple[Tensor, Tensor, Tensor]:
    """Return flat indices of the nearer and the farther pixel of each pair of neighbours, and whether it lies in a row.

    On the CPU only of pairs that see different faces.
    """
    face = fragments.face
    depth = torch.where(face >= 0, fragments.depth.detach(), torch.inf).flatten()
    index = torch.arange(face.numel(), device=face.device).view(face.shape)
    first = [index[:, :, :-1], index[:, :-1, :]]
    second = [index[:, :, 1:], index[:, 1:, :]]
    is_row = torch.cat([torch.full((part.numel(),), k == 0, device=face.device) for k, part in enumerate(first)])
    one, other = torch.cat([part.flatten() for part in first]), torch.cat([part.flatten() for part in second])
    if face.device.type == "cpu":
        ids = face.flatten()
        kept = (ids[one] != ids[other]).nonzero().squeeze(1)
        one, other, is_row = one[kept], other[kept], is_row[kept]
    is_first = depth[one] <= depth[other]
    return torch.where(is_first, one, other), torch.where(is_first, other, one), is_row


def centres(index: Tensor, height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x / w and y / w [P] of the centres of the pixels with a flat index, in the dtype of `like`."""
    x = (2.0 * (index % width).to(like.dtype) + 1.0) / width - 1.0
    y = (2.0 * (index // width % height).to(like.dtype) + 1.0) / height - 1.0
    return x, y


def _points(index: Tensor, height: int, width: int, like: Tensor) -> Tensor:
    """Return [P, 3], the clip points (x / w, y / w, 1) of the pixels with a flat index."""
    x, y = centres(index, height, width, like)
    return torch.stack([x, y, torch.ones_like(x)], dim=-1)


def _step(
    walk: _Walk, clip: Tensor, faces: Tensor, beyond: Tensor, height: int, width: int
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Return the face beyond the edge where each walk leaves its face, that edge's vertices, and whether it leaves at all,
    whether the edge is a silhouette, and whether it is nearer to the vertical."""
    corners = faces[walk.face]  # [P, 3]
    vertices = clip[walk.camera[:, None], corners][..., [0, 1, 3]]  # [P, 3, 3]
    lines = torch.linalg.cross(vertices[:, (1, 2, 0)], vertices[:, (2, 0, 1)], dim=-1)
    sign = torch.sign((vertices[:, :1] * lines[:, :1]).sum(dim=-1))  # [P, 1]
    here = sign * (lines * walk.start[:, None]).sum(dim=-1)
    there = sign * (lines * walk.goal[:, None]).sum(dim=-1)
    leaves = there < 0
    crossing = torch.where(leaves, here / (here - there), torch.inf)  # way from start to goal, in [0, 1)
    k = crossing.argmin(dim=-1, keepdim=True)
    line = torch.gather(lines, 1, k[..., None].expand(-1, 1, 3)).squeeze(1)
    begin = torch.gather(corners, 1, (k + 1) % 3).squeeze(1)
    end = torch.gather(corners, 1, (k + 2) % 3).squeeze(1)
    following = torch.gather(beyond[walk.face], 1, k).squeeze(1)
    others, back = faces[following.clamp_min(0)], beyond[following.clamp_min(0)]
    # By the way back, for vertices may be there twice.
    is_opposite = (back == walk.face[:, None]) & (others != begin[:, None]) & (others != end[:, None])
    opposite = torch.gather(others, 1, is_opposite.to(torch.uint8).argmax(dim=-1, keepdim=True)).squeeze(1)
    # Both faces on one side of the plane through the eye and their edge: the surface folds back there.
    inner = torch.gather(vertices, 1, k[..., None].expand(-1, 1, 3)).squeeze(1)
    outer = clip[walk.camera, opposite][..., [0, 1, 3]]
    folds = (inner * line).sum(dim=-1) * (outer * line).sum(dim=-1) > 0
    is_steep = line[:, 0].abs() * height >= line[:, 1].abs() * width
    return following.clamp_min(0), (begin, end), leaves.any(dim=-1), (following < 0) | folds, is_steep


def _kept(is_found: Tensor, *columns: Tensor) -> tuple[Tensor, ...]:
    """Return the columns and `is_found`, on the CPU without the rows where nothing was found."""
    if is_found.device.type == "cpu":
        rows = is_found.nonzero().squeeze(1)
        columns, is_found = tuple(column[rows] for column in columns), is_found[rows]
    return (*columns, is_found)
