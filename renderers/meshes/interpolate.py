"""Vertex values become pixel values."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.meshes import checks, cpu
from renderers.meshes.fragments import Fragments
from sds3d.errors import ShapeError


def interpolate(values: Tensor, faces: Tensor, fragments: Fragments) -> Tensor:
    """Return values [B, H, W, K] at the pixels, perspective-correct, 0 where nothing was hit.

    values: [V, K], or [B, V, K] one set a camera, any meaning (colours, normals, texture coordinates, camera z).
    faces: [F, 3] int64, rows of `values`: those given to `rasterise`, or others of the same F faces where an attribute has
        seams (texture coordinates).
    Gradients flow to values and, through the barycentric weights, to the clip coordinates.
    """
    batch = fragments.face.shape[0]
    if values.dim() not in (2, 3) or (values.dim() == 3 and values.shape[0] != batch):
        raise ShapeError("values", f"[V, K] or [{batch}, V, K]", tuple(values.shape))
    checks.check_faces(faces, values)
    checks.check_range(faces, values.shape[-2])
    return weighted(values, faces, fragments.face, fragments.barycentric)


def weighted(values: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[..., k] values[vertex k of the face], [B, H, W, K], for weights [B, H, W, 3].

    Where face is -1, weights must be 0. Second derivatives: not on the CPU in float32.
    """
    count, channels = values.shape[-2:]
    is_single = values.dtype == weights.dtype == torch.float32
    if is_single and values.device.type == "cpu" and len(faces) and count and cpu.probe() == "available":
        return cpu.interpolate(values if values.dim() == 3 else values[None], faces, face, weights)
    if not faces.shape[0] or not count:
        return values.new_zeros(*face.shape, channels) + 0.0 * (values.sum() + weights.sum())
    vertex = faces.index_select(0, face.clamp_min(0).flatten()).view(*face.shape, 3)
    if values.dim() == 3:
        vertex = vertex + count * torch.arange(len(face), device=face.device)[:, None, None, None]
    corners = values.reshape(-1, channels).index_select(0, vertex.flatten()).view(*face.shape, 3, channels)
    return (weights[..., None] * corners).sum(dim=-2)
