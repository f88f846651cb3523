"""Silhouettes get a soft edge, and through it gradients to the vertices."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes import checks, silhouettes
from renderers.meshes.clip import full_precision
from renderers.meshes.edges import neighbours
from renderers.meshes.fragments import Fragments
from sds3d.errors import ShapeError


def antialias(
    image: Tensor,
    fragments: Fragments,
    clip: Tensor,
    faces: Tensor,
    beyond: Tensor | None = None,
    steps: int = silhouettes.STEPS,
) -> Tensor:
    """Return the image [B, H, W, K] blended across silhouettes by the area that they cover.

    Between two pixel centres, one of them on a surface that ends at the fraction t of the way to the other, the part of a
    pixel's square beyond or short of t is mixed in: for t > 1/2 the farther pixel receives t - 1/2 of the nearer one's
    value, otherwise the nearer one 1/2 - t of the farther one's. Without silhouettes the image is returned unchanged.
    Gradients flow to the image and, through t, to the clip coordinates of the silhouette edge's two ends: this is how a
    picture moves an outline.

    Args:
        image: [B, H, W, K] sampled at the pixel centres: colour, mask, normals. fragments, clip [B, V, 4], faces [F, 3]: of
            the `rasterise` call it was shaded from.
        beyond: [F, 3] of `edges.neighbours(faces)`; None computes it, so keep it where faces do not change. If adjacent
            faces do not share vertices, it is that of the welded ones (see `edges.weld`).
            Raises ShapeError if it is of another mesh.
        steps: faces looked at between two pixels; see `silhouettes.STEPS`.

    Source: Laine et al., Modular Primitives for High-Performance Differentiable Rendering, 2020, section 3.5.
    Deviations: the silhouette edge may lie `steps` faces away from the pixel's own; a fold is recognised without regard to
        the faces' winding.
    Limits: coverage is that of an edge that spans the whole pixel, along one axis; corners and several silhouettes in one
        pixel are approximate. Edges where surfaces intersect have no gradient.
    """
    if image.dim() != 4 or image.shape[:3] != fragments.face.shape:
        expected = f"[{', '.join(str(size) for size in fragments.face.shape)}, K]"
        raise ShapeError("image", expected, tuple(image.shape))
    checks.check_mesh(clip, faces)
    if not faces.shape[0] or not clip.shape[1]:
        return image + 0.0 * clip.sum().to(image.dtype)
    beyond = neighbours(faces) if beyond is None else beyond
    if beyond.shape != faces.shape:
        raise ShapeError("beyond", str(list(faces.shape)), tuple(beyond.shape))
    with full_precision(clip.device.type):
        found = silhouettes.find(fragments, clip.detach(), faces, beyond, steps)
        return _blend(image, clip, found)


def _blend(image: Tensor, clip: Tensor, found: silhouettes.Silhouettes) -> Tensor:
    """Return the image after all blends; each reads the unblended values."""
    height, width = image.shape[1:3]
    rows = image.reshape(-1, image.shape[-1])
    way = crossing(clip, found, height, width).to(image.dtype)[:, None]
    near, far = rows.index_select(0, found.near), rows.index_select(0, found.far)
    reaches_over = way > 0.5
    target = torch.where(reaches_over.squeeze(1), found.far, found.near)
    # In both cases (t - 1/2) (near - far): what the farther pixel gains is what the nearer one is spared of losing.
    change = torch.where(found.is_found[:, None], (way - 0.5) * (near - far), torch.zeros_like(near))
    return rows.index_add(0, target, change).view_as(image)


def crossing(clip: Tensor, found: silhouettes.Silhouettes, height: int, width: int) -> Tensor:
    """Return [P] in [0, 1], the fraction of the way from the near to the far pixel's centre where the edge is crossed."""
    vertices = clip.reshape(-1, 4)
    begin, end = vertices.index_select(0, found.begin), vertices.index_select(0, found.end)
    start, goal = (silhouettes.centres(index, height, width, clip) for index in (found.near, found.far))
    here, there = _side(start, begin, end), _side(goal, begin, end)
    span = torch.where(found.is_found & (here != there), here - there, torch.ones_like(here))
    return torch.where(found.is_found, here / span, torch.full_like(here, 0.5))


def _side(point: tuple[Tensor, Tensor], begin: Tensor, end: Tensor) -> Tensor:
    """Return det(point, begin, end): on which side of the edge a point (x / w, y / w) lies, and how far in proportion."""
    x, y = point
    ax, ay = begin[:, 0] - x * begin[:, 3], begin[:, 1] - y * begin[:, 3]
    bx, by = end[:, 0] - x * end[:, 3], end[:, 1] - y * end[:, 3]
    return ax * by - ay * bx
