"""The one place that calls nerfacc: its CUDA scan over packed samples. Optional; plain torch does the same."""

from __future__ import annotations

import importlib.metadata
import importlib.util

import torch
from torch import Tensor

from sds3d.errors import BackendError, ConfigError, nearest

BACKENDS = ("auto", "torch", "nerfacc")
FIRST_BAD_TORCH = (2, 13)
"""From this torch on, extensions are compiled as C++20, and nerfacc 0.5.3 does not compile as that (its own function
`lerp` collides with the standard library's)."""


def probe() -> str:
    """Return "available", or why nerfacc cannot run here and what would fix it. Imports and compiles nothing."""
    if importlib.util.find_spec("nerfacc") is None:
        return (
            "nerfacc is not installed: pip install nerfacc==0.5.3, with a torch below 2.13; plain torch does the same"
        )
    version = torch.__version__.split("+")[0]
    if tuple(int(part) for part in version.split(".")[:2]) >= FIRST_BAD_TORCH:
        return (
            f"nerfacc {importlib.metadata.version('nerfacc')} does not compile with torch {version}: a CUDA build of "
            "torch 2.12 or older makes it available; plain torch does the same"
        )
    if not torch.cuda.is_available():
        return "nerfacc needs an NVIDIA card and a CUDA build of torch: see https://pytorch.org/get-started"
    return "available"


def chosen(backend: str, tensor: Tensor) -> bool:
    """Return whether nerfacc is to be used for `tensor`. Raises: ConfigError, BackendError."""
    if backend not in BACKENDS:
        raise ConfigError(f"backend is '{backend}', which is unknown. Use {nearest(backend, BACKENDS)}.", "backend")
    if backend == "torch" or (backend == "auto" and not tensor.is_cuda):
        return False
    state = probe()
    if backend == "auto":
        return state == "available"
    if state != "available" or not tensor.is_cuda:
        reason = state if state != "available" else f"its tensors are on '{tensor.device}', nerfacc needs CUDA ones"
        raise BackendError(f"backend 'nerfacc' cannot be used. {reason}. Use 'auto' or 'torch'.")
    return True


def call_arguments(values: Tensor, ray: Tensor, rays: int) -> dict[str, Tensor]:
    """Return the arguments of `nerfacc.exclusive_sum` (separate, so that a test can bind them to its signature)."""
    count = torch.zeros(rays, dtype=torch.long, device=ray.device).index_add(0, ray, torch.ones_like(ray))
    start = count.cumsum(dim=0) - count
    return {"inputs": values, "packed_info": torch.stack([start, count], dim=1)}


def exclusive_sum(values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Return what `integrate.exclusive_sum` returns. Not run by us: there is no card where this is developed."""
    import nerfacc

    return nerfacc.exclusive_sum(**call_arguments(values, ray, rays))  # type: ignore[no-any-return]
