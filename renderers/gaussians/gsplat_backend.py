"""The one place that calls gsplat: CUDA kernels for the same picture."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from renderers.gaussians import constants


def probe() -> str:
    """Return "available", or why gsplat cannot run here and what would fix it. Imports and compiles nothing."""
    if importlib.util.find_spec("gsplat") is None:
        return "gsplat is not installed: pip install gsplat==1.5.3"
    version = importlib.metadata.version("gsplat")
    if not version.startswith(constants.GSPLAT_VERSION + "."):
        return f"gsplat {version} follows other rules than {constants.GSPLAT_VERSION}: pip install gsplat==1.5.3"
    if not torch.cuda.is_available():
        return "gsplat needs an NVIDIA card and a CUDA build of torch: see https://pytorch.org/get-started"
    if not _has_compiled_extension() and _nvcc() is None:
        return "gsplat compiles its kernels on first use and needs nvcc: install the CUDA toolkit or set CUDA_HOME"
    return "available"


def call_arguments(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    **options: Any,
) -> dict[str, Any]:
    """Return the keyword arguments of `gsplat.rasterization` (separate, so that a test can bind them to its
    signature)."""
    tensors = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    return {**tensors, "viewmats": viewmats, "Ks": Ks, **options, "packed": False, "tile_size": constants.TILE}


def rasterise(*tensors: Tensor, **options: Any) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Return gsplat's colors, alphas and meta for the arguments of `rasterise.rasterise` (all but `backend`)."""
    import gsplat

    colors, alphas, meta = gsplat.rasterization(**call_arguments(*tensors, **options))
    if meta["means2d"].requires_grad:
        meta["means2d"].retain_grad()
    return colors, alphas, meta


def _has_compiled_extension() -> bool:
    """Return whether the wheel brought its kernels."""
    spec = importlib.util.find_spec("gsplat")
    folders = list(spec.submodule_search_locations or []) if spec else []
    return any(any(Path(folder).glob("csrc*.so")) or any(Path(folder).glob("csrc*.pyd")) for folder in folders)


def _nvcc() -> str | None:
    """Return the path of the CUDA compiler, if there is one where torch looks for it."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return shutil.which("nvcc") or shutil.which("nvcc", path=str(Path(home) / "bin"))
