"""Where on its face a pixel lies: barycentric weights and depth, differentiable, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes import cpu
from renderers.meshes.clip import pixel_centres

AFTER, BEYOND = (1, 2, 0), (2, 0, 1)
"""The corners k + 1 and k + 2 of each corner k."""


def surface(clip: Tensor, faces: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Return barycentric weights [B, H, W, 3] and depth [B, H, W] of the faces `face` [B, H, W] at the pixel centres.

    The weights are perspective-correct: sum_k b_k v_k lies on the pixel's line of sight. 0, and depth 1, where face < 0.
    Gradients flow to clip [B, V, 4].

    Limits: a pixel outside of its face is extrapolated, as nvdiffrast's rounding of vertices to 1/16 pixel may ask for.
    """
    is_hit = face >= 0
    corners = _corners(clip, faces, face, is_hit)
    edges = _edges(corners, *face.shape[1:])
    total = edges.sum(dim=-1, keepdim=True)
    total = torch.where(total == 0, torch.ones_like(total), total)
    weights = edges / total
    w = (weights * corners[..., 3]).sum(dim=-1)
    depth = (weights * corners[..., 2]).sum(dim=-1) / torch.where(w == 0, torch.ones_like(w), w)
    zero, one = torch.zeros_like(weights), torch.ones_like(depth)
    return torch.where(is_hit[..., None], weights, zero), torch.where(is_hit, depth, one)


@torch.no_grad()
def pixel_derivatives(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """Return [B, H, W, 3, 2], the change of the barycentric weights per pixel to the right and per pixel down.

    0 where face < 0. No gradient. `texture.footprint` makes texture coordinates of it.
    """
    if clip.device.type == "cpu" and clip.dtype == torch.float32 and cpu.probe() == "available":
        return cpu.pixel_derivatives(clip, faces, face)
    height, width = face.shape[1:]
    is_hit = face >= 0
    corners = _corners(clip, faces, face, is_hit)
    edges = _edges(corners, height, width)
    total = edges.sum(dim=-1, keepdim=True)
    total = torch.where(total == 0, torch.ones_like(total), total)
    weights = (edges / total)[..., None]  # [B, H, W, 3, 1]
    x, y, w = corners[..., 0], corners[..., 1], corners[..., 3]
    # e_k = p . (v_k+1 x v_k+2) is affine in p: its slopes are the first two components of the cross product.
    slope_x = y[..., AFTER] * w[..., BEYOND] - w[..., AFTER] * y[..., BEYOND]
    slope_y = w[..., AFTER] * x[..., BEYOND] - x[..., AFTER] * w[..., BEYOND]
    slopes = torch.stack([slope_x * (2.0 / width), slope_y * (2.0 / height)], dim=-1)  # [B, H, W, 3, 2]
    change = (slopes - weights * slopes.sum(dim=-2, keepdim=True)) / total[..., None]
    return torch.where(is_hit[..., None, None], change, torch.zeros_like(change))


def _corners(clip: Tensor, faces: Tensor, face: Tensor, is_hit: Tensor) -> Tensor:
    """Return the clip coordinates [B, H, W, 3, 4] of the corners of each pixel's face (any triangle where there is none)."""
    batch, count = clip.shape[:2]
    anything = clip.new_tensor([[0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]])
    if not faces.shape[0] or not count:
        # The product keeps the result part of clip's graph: a mesh without faces has the gradient 0.
        return anything.expand(*face.shape, 3, 4) + 0.0 * clip.sum()
    first = count * torch.arange(batch, device=clip.device)[:, None, None, None]
    vertex = faces.index_select(0, face.clamp_min(0).flatten()).view(*face.shape, 3) + first
    corners = clip.reshape(-1, 4).index_select(0, vertex.flatten()).view(*face.shape, 3, 4)
    return torch.where(is_hit[..., None, None], corners, anything)


def _edges(corners: Tensor, height: int, width: int) -> Tensor:
    """Return the edge functions [B, H, W, 3] at the pixel centres.

    Seen from a pixel's own centre, det(p, a, b) is a 2D cross product of small vectors: nothing cancels, also in float32.
    """
    x, y = pixel_centres(height, width, corners)
    w = corners[..., 3]
    a, b = corners[..., 0] - x[:, None] * w, corners[..., 1] - y[:, None, None] * w
    return a[..., AFTER] * b[..., BEYOND] - b[..., AFTER] * a[..., BEYOND]
