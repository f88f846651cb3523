"""The one place that calls nvdiffrast: which face a pixel sees, by its CUDA rasteriser."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

DEVICES = ("cuda",)


def probe() -> str:
    """Return "available", or why nvdiffrast cannot run here and what would fix it. Imports and compiles nothing."""
    if importlib.util.find_spec("nvdiffrast") is None:
        return "nvdiffrast is not installed: pip install git+https://github.com/NVlabs/nvdiffrast --no-build-isolation"
    if not torch.cuda.is_available():
        return "nvdiffrast needs an NVIDIA card and a CUDA build of torch: see https://pytorch.org/get-started"
    return "available"


def call_arguments(clip: Tensor, faces: Tensor, height: int, width: int) -> dict[str, Any]:
    """Return the keyword arguments of `nvdiffrast.torch.rasterize` but its context (separate, for tests).

    Its clip space is ours: the first row of its picture is y / w = -1, which it calls the bottom.
    """
    positions = clip.contiguous()
    return {"pos": positions, "tri": faces.to(torch.int32), "resolution": (height, width), "grad_db": False}


def visible_faces(clip: Tensor, faces: Tensor, height: int, width: int) -> Tensor:
    """Return what `reference.visible_faces` returns, with nvdiffrast's own rule for edges (vertices on a grid of 1/16 px).

    Its fourth channel is the face's row + 1 as float32: exact up to 2^24 faces.
    """
    batch = clip.shape[0]
    if not faces.shape[0] or not clip.shape[1] or not batch:
        return torch.full((batch, height, width), -1, dtype=torch.int64, device=clip.device)
    import nvdiffrast.torch as foreign

    drawn, _ = foreign.rasterize(_context(clip.device), **call_arguments(clip, faces, height, width))
    return face_rows(drawn)


def face_rows(drawn: Tensor) -> Tensor:
    """Return face rows [B, H, W] int64, -1 for none, from nvdiffrast's [B, H, W, 4] (u, v, z / w, row + 1)."""
    return drawn[..., 3].round().to(torch.int64) - 1


@lru_cache(maxsize=4)
def _context(device: torch.device) -> Any:
    """Return the device's rasteriser state: it holds memory that later calls use again."""
    import nvdiffrast.torch as foreign

    return foreign.RasterizeCudaContext(device=device)
