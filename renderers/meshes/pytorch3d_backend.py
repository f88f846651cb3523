"""The one place that calls PyTorch3D: which face a pixel sees, by its rasteriser."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import Tensor

from renderers.meshes.clip import NEAR

DEVICES = ("cpu", "cuda")
W_MIN = 1e-8
"""Vertices nearer to the camera's plane are moved away from it, for PyTorch3D divides by w."""


def probe() -> str:
    """Return "available", or why PyTorch3D cannot run here and what would fix it. Imports nothing."""
    if importlib.util.find_spec("pytorch3d") is None:
        return (
            "pytorch3d is not installed and has no wheel for this Python and torch: build it once (about half an hour) with "
            "pip install git+https://github.com/facebookresearch/pytorch3d --no-build-isolation"
        )
    return "available"


def call_arguments(meshes: Any, height: int, width: int) -> dict[str, Any]:
    """Return the keyword arguments of `pytorch3d.renderer.mesh.rasterize_meshes` (separate, for tests)."""
    return {
        "meshes": meshes,
        "image_size": (height, width),
        "blur_radius": 0.0,
        "faces_per_pixel": 1,
        "perspective_correct": True,
        "cull_backfaces": False,
        "z_clip_value": NEAR,
    }


def screen_points(clip: Tensor, height: int, width: int) -> Tensor:
    """Return [B, V, 3] in PyTorch3D's screen space: +x left, +y up, the shorter side of the picture from -1 to 1, z = w."""
    w = clip[..., 3]
    safe = torch.where(w.abs() < W_MIN, torch.full_like(w, W_MIN), w)
    shorter = min(height, width)
    return torch.stack([-clip[..., 0] / safe * (width / shorter), -clip[..., 1] / safe * (height / shorter), w], dim=-1)


def visible_faces(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Return what `reference.visible_faces` returns, with PyTorch3D's own rule for edges.

    Limits: the near plane is w = 0.01 and there is no far plane; on the CPU its time is F H W.
    """
    batch, count = clip.shape[0], faces.shape[0]
    if not count or not clip.shape[1] or not batch:
        return torch.full((batch, height, width), -1, dtype=torch.int64, device=clip.device)
    from pytorch3d.renderer.mesh.rasterize_meshes import rasterize_meshes
    from pytorch3d.structures import Meshes

    points = screen_points(clip, height, width)
    meshes = Meshes(verts=points, faces=faces.expand(batch, -1, -1))
    return face_rows(rasterize_meshes(**call_arguments(meshes, height, width))[0], count)


def face_rows(drawn: Tensor, count: int) -> Tensor:
    """Return face rows [B, H, W], -1 for none, from [B, H, W, 1] numbers that count on through the batch's meshes."""
    first = count * torch.arange(len(drawn), device=drawn.device)[:, None, None]
    return torch.where(drawn[..., 0] >= 0, drawn[..., 0] - first, -1)
