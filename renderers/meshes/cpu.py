"""The CPU back end: a compiled z-buffer and its gradient, the same for any number of threads."""

from __future__ import annotations

import importlib.util
import logging
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.gaussians import workers

log = logging.getLogger(__name__)

DEVICES = ("cpu",)
FACE_US, PIXEL_US, WALK_US = 0.2, 0.05, 0.1
"""Rough microseconds that a face and a pixel take in one direction, and the walks that begin at a pixel."""


@cache
def probe() -> str:
    """Return "available", or why the CPU kernels cannot run here and what would fix it."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return "available"


def rasterise(clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return face [B, H, W] int64, barycentric weights [B, H, W, 3] and depth [B, H, W], as `Fragments` describes them.

    clip: [B, V, 4] float32 on the CPU. Gradients flow to it, once (no second derivatives).
    """
    return _Rasterise.apply(clip, faces, height, width)


class _Rasterise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, clip: Tensor, faces: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        kernels = _kernels()
        clip, faces = clip.contiguous(), faces.contiguous()
        batch, vertices = clip.shape[:2]
        face = torch.empty(batch, height, width, dtype=torch.int64)
        weights, depth = torch.empty(batch, height, width, 3), torch.empty(batch, height, width)
        places, buffer = np.empty((batch, vertices, 2)), np.empty((batch, height, width))
        threads = workers.thread_count(batch * (FACE_US * len(faces) + PIXEL_US * height * width))
        size = np.array([height, width])
        workers.run(threads, kernels.raster.bounds, kernels.job(_array(clip), places, size))
        arrays = (clip, faces, places, face, weights, depth, buffer)
        workers.run(threads, kernels.raster.draw, kernels.job(*(_array(each) for each in arrays)))
        ctx.save_for_backward(clip, faces, face, weights, depth)
        ctx.threads = threads
        ctx.mark_non_differentiable(face)
        ctx.set_materialize_grads(False)
        return face, weights, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: None, g_weights: Tensor | None, g_depth: Tensor | None) -> tuple[Tensor | None, ...]:
        clip, faces, face, weights, depth = ctx.saved_tensors
        if g_weights is None and g_depth is None:
            return None, None, None, None
        gradient = torch.zeros_like(clip)
        if not len(faces):
            return gradient, None, None, None
        kernels = _kernels()
        g_weights = torch.zeros_like(weights) if g_weights is None else g_weights.contiguous()
        g_depth = torch.zeros_like(depth) if g_depth is None else g_depth.contiguous()
        starts, order = sorted_pixels(face, len(faces), ctx.threads)
        corners = np.empty((*starts.shape[:1], len(faces), 3, 4), np.float32)
        flat = [_array(each.flatten(1, 2)) for each in (weights, depth, g_weights, g_depth)]
        size = np.array(face.shape[1:])
        job = kernels.job(_array(clip), _array(faces), *flat, starts, order, size, corners)
        workers.run(ctx.threads, kernels.gradient.add_faces, job)
        job = kernels.job(_array(faces), starts, corners, _array(gradient))
        workers.run(min(ctx.threads, len(clip)), kernels.gradient.add_vertices, job)
        return gradient, None, None, None


def interpolate(values: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
    """Return sum_k weights[..., k] values[vertex k of the face], [B, H, W, K], 0 where face [B, H, W] is -1.

    values: [1 or B, V, K]; weights: [B, H, W, 3]; both float32 on the CPU. Gradients flow to both, once.
    """
    return _Interpolate.apply(values, faces, face, weights)


class _Interpolate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, faces: Tensor, face: Tensor, weights: Tensor) -> Tensor:
        kernels = _kernels()
        values, faces, weights = values.contiguous(), faces.contiguous(), weights.contiguous()
        out = torch.empty(*face.shape, values.shape[-1])
        threads = workers.thread_count(PIXEL_US * out.numel() / 3)
        flat = [_array(each.flatten(1, 2)) for each in (face, weights, out)]
        workers.run(threads, kernels.attributes.spread, kernels.job(_array(values), _array(faces), *flat))
        ctx.save_for_backward(values, faces, face, weights)
        ctx.threads = threads
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_out: Tensor) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        values, faces, face, weights = ctx.saved_tensors
        flat = _array(g_out.contiguous().flatten(1, 2))
        g_values = g_weights = None
        if ctx.needs_input_grad[0]:
            starts, order = sorted_pixels(face, len(faces), ctx.threads)
            corners = np.empty((len(face), len(faces), 3, flat.shape[-1]), np.float32)
            job = kernels.job(flat, _array(weights.flatten(1, 2)), starts, order, corners)
            workers.run(ctx.threads, kernels.attributes.gather, job)
            g_values = torch.zeros(len(face), *values.shape[1:])
            job = kernels.job(_array(faces), starts, corners, _array(g_values))
            workers.run(min(ctx.threads, len(face)), kernels.gradient.add_vertices, job)
            g_values = g_values.sum(dim=0, keepdim=True) if len(values) == 1 else g_values
        if ctx.needs_input_grad[3]:
            g_weights = torch.empty_like(weights)
            arrays = (_array(face.flatten(1, 2)), flat, _array(g_weights.flatten(1, 2)))
            workers.run(ctx.threads, kernels.attributes.weigh, kernels.job(_array(values), _array(faces), *arrays))
        return g_values, None, None, g_weights


def pixel_derivatives(clip: Tensor, faces: Tensor, face: Tensor) -> Tensor:
    """Return [B, H, W, 3, 2], the change of the weights per pixel to the right and down; 0 where face is -1."""
    kernels = _kernels()
    out = torch.empty(*face.shape, 3, 2)
    arrays = (clip.contiguous(), faces.contiguous(), face, out)
    job = kernels.job(*(_array(each) for each in arrays))
    workers.run(workers.thread_count(PIXEL_US * face.numel()), kernels.attributes.change, job)
    return out


def silhouette_edges(face: Tensor, depth: Tensor, clip: Tensor, faces: Tensor, beyond: Tensor, steps: int) -> Tensor:
    """Return [B, H, W, 2] int64: the silhouette edge between each pixel and its right and lower neighbours.

    -1 for none, otherwise 2 (3 f + k) for edge k of face f, plus 1 if the neighbour is the nearer one.
    """
    kernels = _kernels()
    found = torch.empty(*face.shape, 2, dtype=torch.int64)
    threads = workers.thread_count(WALK_US * face.numel())
    arrays = (clip.contiguous(), faces.contiguous(), beyond.contiguous(), face, depth.contiguous())
    job = kernels.job(*(_array(each) for each in arrays), np.array([steps]), _array(found))
    workers.run(threads, kernels.walk.find, job)
    return found


def sorted_pixels(face: Tensor, count: int, threads: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the pixels [B, H W] of each picture in order of their face, and where [B, F + 1] each face's begin."""
    flat = _array(face.flatten(1, 2))
    starts = np.empty((len(flat), count + 1), np.int64)
    order = np.empty(flat.shape, np.int32)
    kernels = _kernels()
    workers.run(min(threads, len(flat)), kernels.gradient.sort_pixels, kernels.job(flat, starts, order))
    return starts, order


def _array(values: Tensor | NDArray[Any]) -> NDArray[Any]:
    """Return the tensor's memory as an array."""
    return values.detach().numpy() if isinstance(values, Tensor) else values


@cache
def _kernels() -> SimpleNamespace:
    """Import the kernels, saying so once if they have to be compiled."""
    from renderers.gaussians.kernels.compiling import is_cached
    from renderers.meshes.kernels import attributes, gradient, raster, walk
    from renderers.meshes.kernels.jobs import job, sources

    if not is_cached(raster.draw, sources()):
        log.warning(
            "Compiling the CPU mesh rasteriser: once per installation, about fifteen seconds, kept in %s",
            raster.draw.stats.cache_path,
        )
    return SimpleNamespace(attributes=attributes, gradient=gradient, raster=raster, walk=walk, job=job)
