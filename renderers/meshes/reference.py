"""Which face each pixel sees, by brute force in plain torch: every face against every pixel.

Homogeneous rasterisation (Olano and Greer, Triangle Scan Conversion using 2D Homogeneous Coordinates, 1997): with vertices
v_k = (x, y, w) in clip space and a pixel p = (X, Y, 1), the edge functions are e_k = p . (v_k+1 x v_k+2), and the line of
sight meets the face in front of the camera if all have the sign of det(v_0, v_1, v_2). No vertex is ever divided by its w,
so faces that cross w = 0 need no clipping; near and far planes are tests of a pixel's own depth
z / w = sum_k e_k z_k / det.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes.clip import pixel_centres

CHUNK = 2_000_000
"""Pixel-face pairs looked at together."""


@torch.no_grad()
def visible_faces(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Return [B, H, W] int64, the nearest face at each pixel centre, or -1.

    clip: [B, V, 4]. faces: [F, 3] int64. Both sides of a face are drawn. A pixel centre on an edge or vertex that faces
    share belongs to exactly one of them (the top-left rule); of faces at the very same depth, the first one is seen.
    Faces without area in the picture are not drawn.

    Limits: float64 inside (float32 on devices without it); O(F H W), for comparison and for small scenes.
    """
    batch, count = clip.shape[0], faces.shape[0]
    best = torch.full((batch, height, width), -1, dtype=torch.int64, device=clip.device)
    if not count or not batch:
        return best
    wide = clip.to(torch.float32 if clip.device.type == "mps" else torch.float64)
    nearest = torch.full(best.shape, torch.inf, dtype=wide.dtype, device=clip.device)
    step = count if clip.device.type == "meta" else max(1, CHUNK // (batch * height * width))
    for start in range(0, count, step):
        index, depth = _nearest_of(wide[:, faces[start : start + step]], height, width)
        is_nearer = depth < nearest
        best = torch.where(is_nearer, index + start, best)
        nearest = torch.where(is_nearer, depth, nearest)
    return best


def _nearest_of(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the index [B, H, W] of the nearest of F faces with corners [B, F, 3, 4], and its depth (inf: none)."""
    vertices, z = corners[..., [0, 1, 3]], corners[..., 2]
    v0, v1, v2 = vertices.unbind(2)
    lines = torch.stack([_cross(v1, v2), _cross(v2, v0), _cross(v0, v1)], dim=2)  # [B, F, 3 edges, 3]
    determinant = (v0 * lines[:, :, 0]).sum(dim=-1)
    sign = torch.sign(determinant)[:, :, None]
    has_area = determinant != 0
    # A pixel on an edge belongs to the face for which the edge is left (the inside is at larger x) or top (larger y).
    slope_x, slope_y = sign * lines[..., 0], sign * lines[..., 1]
    owns_edge = (slope_x > 0) | ((slope_x == 0) & (slope_y > 0))
    x, y = pixel_centres(height, width, corners)
    a, b, c = (part[..., None, None] for part in lines.unbind(-1))  # each [B, F, 3, 1, 1]
    edges = a * x + (b * y[:, None] + c)  # [B, F, 3, H, W]
    signed = edges * sign[..., None, None]
    inside = ((signed > 0) | ((signed == 0) & owns_edge[..., None, None])).all(dim=2) & has_area[..., None, None]
    safe = torch.where(has_area, determinant, torch.ones_like(determinant))
    planes = (lines * z[..., None]).sum(dim=2) / safe[..., None]  # depth = plane . (X, Y, 1)
    a, b, c = (part[..., None, None] for part in planes.unbind(-1))
    depth = a * x + (b * y[:, None] + c)
    inside = inside & (depth >= -1.0) & (depth <= 1.0)
    depth = torch.where(inside, depth, torch.full_like(depth, torch.inf))
    nearest = depth.amin(dim=1)
    order = torch.arange(corners.shape[1], device=corners.device)[:, None, None]
    first = torch.where(depth == nearest[:, None], order, corners.shape[1]).amin(dim=1)
    return first, nearest


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Return a x b over the last axis; exactly the negative of b x a, so that faces agree about their common edge."""
    ax, ay, aw = a.unbind(-1)
    bx, by, bw = b.unbind(-1)
    return torch.stack([ay * bw - aw * by, aw * bx - ax * bw, ax * by - ay * bx], dim=-1)
