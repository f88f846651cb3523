"""The CPU back end: compiled tile loops on a small thread pool, deterministic for any number of threads."""

from __future__ import annotations

import importlib.util
import logging
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.gaussians import constants
from renderers.gaussians.projection import Projection

log = logging.getLogger(__name__)

THREAD_ENTRIES = 8_000
"""Tile entries (Gaussian in tile) worth a second thread; below, handing over work costs more than it saves."""


def probe() -> str:
    """Return "available", or why the CPU kernel cannot run here and what would fix it."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return "available"


def composite(
    projection: Projection, features: Tensor, width: int, height: int, absgrad: bool = False
) -> tuple[Tensor, Tensor]:
    """Return blended features [C, H, W, D] (no background) and alphas [C, H, W, 1], float32.

    Same arguments and picture as `reference.composite`; gradients flow to means2d, conics, opacities and features, once
    (no second derivatives).

    Source: Kerbl et al., 2023; the gradient is derived for a front-to-back sweep, so nothing but the image is stored.
    Limits: float32 on CPU. The first call after an installation compiles for some seconds (cached on disk).
    """
    means2d = projection.means2d
    absolute = torch.zeros_like(means2d, requires_grad=absgrad and means2d.requires_grad)
    if absolute.requires_grad:
        target = weakref.ref(means2d)

        def publish(gradient: Tensor) -> None:
            alive = target()
            if alive is not None:
                alive.absgrad = gradient  # type: ignore[attr-defined]

        absolute.register_hook(publish)
    out, alphas = _Composite.apply(
        means2d,
        projection.conics,
        projection.opacities,
        features,
        absolute,
        projection.depths,
        projection.radii,
        width,
        height,
    )
    return out, alphas[..., None]


class _Tiles(NamedTuple):
    """Depth-ordered lists: entries[offsets[i] : offsets[i + 1]], i = camera * tiles + tile, are a tile's Gaussians."""

    boxes: Tensor
    offsets: Tensor
    entries: Tensor
    tiles: int


class _Composite(torch.autograd.Function):
    """Compositing with its analytic gradient; `absolute` only receives the sums of |gradient of means2d|."""

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Tensor,
        conics: Tensor,
        opacities: Tensor,
        features: Tensor,
        absolute: Tensor,
        depths: Tensor,
        radii: Tensor,
        width: int,
        height: int,
    ) -> tuple[Tensor, Tensor]:
        kernels = _kernels()
        means2d, conics, opacities, features = (t.contiguous() for t in (means2d, conics, opacities, features))
        tiles = _tile_lists(kernels, means2d, conics, opacities, depths, radii, width, height)
        out = means2d.new_zeros(len(means2d), height, width, features.shape[2])
        transmittance = means2d.new_ones(len(means2d), height, width)
        arrays = _arrays(means2d, conics, opacities, features, tiles.boxes, tiles.offsets, tiles.entries)
        results = _arrays(out, transmittance)
        _run(
            thread_count(len(tiles.entries)),
            lambda first, step: kernels.forward(first, step, *arrays, width, height, *results),
        )
        alphas = 1.0 - transmittance.abs_()
        ctx.save_for_backward(means2d, conics, opacities, features, out, alphas)
        ctx.tiles = tiles
        return out, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor, grad_alphas: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        means2d, conics, opacities, features, out, alphas = ctx.saved_tensors
        tiles: _Tiles = ctx.tiles
        cameras, height, width, _ = out.shape
        grad_out, grad_alphas = grad_out.contiguous(), grad_alphas.contiguous()
        remaining = (out * grad_out).sum(dim=-1) + alphas * grad_alphas
        slots = means2d.new_zeros(len(tiles.entries), kernels.MOMENTS + features.shape[2])
        transmittance = torch.ones_like(alphas)
        arrays = _arrays(means2d, conics, opacities, features, tiles.boxes, tiles.offsets, tiles.entries)
        scratch = _arrays(grad_out, grad_alphas, remaining, transmittance, slots)
        threads = thread_count(len(tiles.entries))
        _run(threads, lambda first, step: kernels.backward(first, step, *arrays, width, height, *scratch))
        gradients = [torch.zeros_like(t) for t in (means2d, conics, opacities, features, means2d)]
        inputs = _arrays(conics, opacities, tiles.offsets, tiles.entries, slots)
        results = _arrays(*gradients)
        _run(min(threads, cameras), lambda first, step: kernels.reduce(first, step, *inputs, tiles.tiles, *results))
        return (*gradients, None, None, None, None)


def _tile_lists(
    kernels: ModuleType,
    means2d: Tensor,
    conics: Tensor,
    opacities: Tensor,
    depths: Tensor,
    radii: Tensor,
    width: int,
    height: int,
) -> _Tiles:
    """Return the tile lists of all cameras, each in order of depth (ties in order of index)."""
    cameras, count = depths.shape
    tiles = -(-width // constants.TILE) * -(-height // constants.TILE)
    boxes = torch.empty(cameras, count, 4, dtype=torch.int32)
    counts = torch.zeros(cameras, tiles, dtype=torch.int64)
    for camera in range(cameras):
        views = _arrays(*(t[camera].contiguous() for t in (means2d, conics, opacities, radii)))
        kernels.measure(*views, width, height, *_arrays(boxes[camera], counts[camera]))
    offsets = torch.zeros(cameras * tiles + 1, dtype=torch.int64)
    torch.cumsum(counts.flatten(), dim=0, out=offsets[1:])
    entries = torch.empty(int(offsets[-1]), dtype=torch.int32)
    order = torch.argsort(depths, dim=1, stable=True)
    cursors = offsets[:-1].clone().reshape(cameras, tiles)
    for camera in range(cameras):
        kernels.fill(*_arrays(order[camera], boxes[camera]), width, *_arrays(cursors[camera], entries))
    return _Tiles(boxes, offsets, entries, tiles)


def _arrays(*tensors: Tensor) -> list[Any]:
    """Return numpy views of CPU tensors."""
    return [tensor.detach().numpy() for tensor in tensors]


def thread_count(entries: int) -> int:
    """Return how many threads a frame with that many tile entries is given; at most torch's own number of threads."""
    return max(1, min(torch.get_num_threads(), entries // THREAD_ENTRIES))


def _run(threads: int, kernel: Callable[[int, int], None]) -> None:
    """Run kernel(first, step) for first = 0 .. threads - 1 and step = threads, the last share in the calling thread."""
    if threads <= 1:
        kernel(0, 1)
        return
    pool = _pool(os.getpid(), threads - 1)
    shares = [pool.submit(kernel, first, threads) for first in range(threads - 1)]
    kernel(threads - 1, threads)
    for share in shares:
        share.result()


@lru_cache(maxsize=8)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return this process's pool; a forked child has no threads of its parent's pool, hence the process number."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"splat-{process}")


@lru_cache(maxsize=1)
def _kernels() -> ModuleType:
    """Import the kernels, saying so once if they have to be compiled."""
    from renderers.gaussians import cpu_kernels

    slowest = cpu_kernels.backward
    if not hasattr(slowest, "py_func"):  # NUMBA_DISABLE_JIT is set: nothing will be compiled
        return cpu_kernels
    cache = Path(slowest.stats.cache_path or "")
    # numba names an index file after module, function and line. One left by an older text that began on the same line
    # only costs the message.
    index = f"{Path(cpu_kernels.__file__).stem}.backward-{slowest.py_func.__code__.co_firstlineno}.*.nbi"
    if not any(cache.glob(index)):
        log.warning("Compiling the CPU rasteriser: once per installation, 10 to 30 seconds, kept in %s", cache)
    return cpu_kernels
