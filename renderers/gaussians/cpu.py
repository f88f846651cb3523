"""The CPU back end: compiled kernels for sixteen floats at a time, deterministic for any number of threads.

A call of the rasteriser on a few Gaussians takes about as long here as in the kernels, hence the brevity: what depends on
shapes alone is in `plans`, and a job record is copied, not made.
"""

from __future__ import annotations

import importlib.util
import weakref
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.gaussians import workers
from renderers.gaussians.plans import LANES, View, kernels, plan_frame, plan_projection
from renderers.gaussians.projection import Projection
from renderers.gaussians.scratch import lease

BINNING_US, ENTRY_US = 0.1, 0.15
"""Rough microseconds that a Gaussian (sorting and binning) and a tile entry (drawing) take in one direction."""
NO_GRADIENT = (0, 0, 0, 0, 0)


@cache
def probe() -> str:
    """Return "available", or why the CPU kernels cannot run here and what would fix it."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return "available"


def project(
    *tensors: Tensor,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    radius_clip: float,
    antialiased: bool,
    colors: Tensor | None = None,
    backgrounds: Tensor | None = None,
) -> tuple[Projection, Tensor, bool]:
    """Return what `projection.project` returns for the same arguments, the records that `composite` reads, and whether
    all values are usable, including those of colors and backgrounds.

    NaN, infinities and quaternions of length 0 are not; the results are then meaningless. (Huge values may be taken for
    infinities.)
    Limits: float32 on CPU; no gradients for the cameras.
    """
    count, cameras = tensors[0].shape[0], tensors[4].shape[0]
    thresholds = (near_plane, far_plane, eps2d, radius_clip, antialiased)
    plan = plan_projection(count, cameras, width, height, *thresholds)
    looked_at = [None if tensor is None else tensor.detach().contiguous() for tensor in (colors, backgrounds)]
    places: list[int] = []
    for tensor in looked_at:
        places += (0, 0) if tensor is None else (tensor.data_ptr(), tensor.numel())
    rest: list[Any] = []
    means2d, depths, conics, opacities = _Project.apply(*tensors[:4], (*tensors[4:], plan, places, rest))
    radii, records, is_usable = rest
    return Projection(means2d, depths, conics, opacities, radii), records, is_usable


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Take means, quats, scales, opacities, and, in one tuple, viewmats, Ks, the plan, where else to look for values
        that cannot be used, and a list for the results that have no gradient."""
        *given, (viewmats, intrinsics, plan, looked_at, rest) = arguments
        found, tensors = kernels(), [tensor.contiguous() for tensor in (*given, viewmats, intrinsics)]
        threads = workers.thread_count(plan.microseconds)
        memory, start = lease(plan.record_bytes + threads * found.projection_spare)
        job = bytearray(plan.template)
        addresses = [tensor.data_ptr() for tensor in tensors]
        found.put_inputs(job, *addresses, start, *looked_at, start + plan.record_bytes)
        are_usable = workers.run(threads, found.project, found.projecting.view(job), is_taken=True)
        ctx.save_for_backward(*tensors)
        ctx.job, ctx.threads = job, threads
        ctx.set_materialize_grads(False)
        radii = memory.view(torch.int32).as_strided(*plan.radii)
        rest += radii, memory.as_strided(*plan.records), all(are_usable)
        fields = (plan.means2d, plan.depths, plan.conics, plan.opacities)
        return tuple([memory.as_strided(*field) for field in fields])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        found, tensors = kernels(), ctx.saved_tensors
        incoming = [None if gradient is None else gradient.contiguous() for gradient in upstream]
        gradients = [torch.empty_like(tensor) for tensor in tensors[:4]]
        spare = tensors[0].new_empty(ctx.threads * found.projection_spare // 4)
        places = [0 if gradient is None else gradient.data_ptr() for gradient in incoming]
        places += [gradient.data_ptr() for gradient in gradients]
        job = bytearray(ctx.job)  # a graph may be walked again
        found.put_projection_gradients(job, spare.data_ptr(), *places)
        workers.run(ctx.threads, found.project_back, found.projecting.view(job), is_taken=True)
        return (*gradients, None)


def composite(
    projection: Projection,
    features: Tensor,
    view: View,
    backgrounds: Tensor | None = None,
    records: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return blended channels [C, H, W, X] and alphas [C, H, W, 1], float32, as views of channels-first memory.

    Args:
        projection: 2D Gaussians. records: those of `project`; None packs the projection.
        features: [N, D] or [C, N, D]. view: sizes, depth as a further channel; see `View`.
        backgrounds: [C, D], no gradient; depth has background 0.

    Gradients flow to means2d, conics, opacities, depths (as a channel) and features, once (no second derivatives).
    With absgrad, `projection.means2d.absgrad` [C, N, 2] holds the sum over pixels of |gradient| after backward.
    Source: Kerbl et al., 2023; the gradient is derived for a front-to-back sweep, so only the picture is stored.
    """
    means2d, depths, conics, opacities, _ = projection
    records = pack(projection) if records is None else records
    cameras, padded, _ = records.shape
    count, channels = means2d.shape[1], features.shape[-1]
    threads = workers.thread_count(BINNING_US * cameras * count)
    plan = plan_frame(count, padded, cameras, channels, features.dim() == 3, view, threads)
    behind = plan.black
    if backgrounds is not None:
        behind = torch.nn.functional.pad(backgrounds.detach(), (0, view.with_depth)).contiguous()
    drawn_depths = depths if view.with_depth else None
    more = (plan, view, records, behind, weakref.ref(means2d))
    return _Composite.apply(means2d, conics, opacities, features, drawn_depths, more)


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Take means2d, conics, opacities, features, depths or None, and, in one tuple, the plan, the view, records,
        backgrounds, and a reference to the tensor that receives `absgrad`."""
        *_, features, _, (plan, view, records, behind, target) = arguments
        found, features, out = kernels(), features.contiguous(), records.new_empty(plan.out)
        kept, start = lease(plan.memory_bytes)
        job = bytearray(plan.template)
        places = [start + offset for offset in plan.memory]
        given = (records.data_ptr(), features.data_ptr(), behind.data_ptr(), out.data_ptr())
        found.put_frame(job, *given, *places)
        record = found.drawing.view(job)
        entries = -(-sum(workers.run(plan.sorters, found.sort, record)) // 4) * 4  # whole cache lines
        threads, size = workers.thread_count(ENTRY_US * entries), found.layout.ENTRY_BYTES * entries
        lists, start = lease(2 * size + threads * plan.spare_bytes)
        found.put_lists(job, start, start + size, start + 2 * size)
        workers.run(plan.binners, found.fill, record, is_taken=True)
        workers.run(plan.binners, found.distribute, record, is_taken=True)
        workers.run(threads, plan.draw, record, is_taken=True)
        images, alphas = out.as_strided(*plan.images), out.as_strided(*plan.alphas)
        ctx.save_for_backward(records, features, kept, lists, images)
        ctx.plan, ctx.view, ctx.target, ctx.behind = plan, view, target, behind  # behind: its address is in use
        ctx.job, ctx.entries, ctx.threads = job, entries, threads
        ctx.set_materialize_grads(False)
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_images: Tensor | None, g_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        found, plan, view = kernels(), ctx.plan, ctx.view
        records, features, *_ = ctx.saved_tensors
        size = plan.slot_bytes * ctx.entries
        _slots, start = lease(size + ctx.threads * plan.spare_bytes)
        d_means2d, d_conics = records.new_empty(plan.pairs), records.new_empty(plan.triples)
        d_opacities, d_features = records.new_empty(plan.rows), torch.empty_like(features)
        d_depths = records.new_empty(plan.rows) if view.with_depth else None
        d_absolute = torch.empty_like(d_means2d) if view.absgrad else None
        incoming = [
            number
            for gradient in (g_images, g_alphas)
            for number in (NO_GRADIENT if gradient is None else (gradient.data_ptr(), *gradient.stride()))
        ]
        results = (d_means2d, d_conics, d_opacities, d_features, d_depths, d_absolute)
        places = [0 if result is None else result.data_ptr() for result in results]
        job = bytearray(ctx.job)  # a graph may be walked again
        found.put_frame_gradients(job, start + size, start, *incoming, *places)
        record = found.drawing.view(job)
        workers.run(ctx.threads, plan.sweep, record, is_taken=True)
        workers.run(ctx.threads, found.reduce, record, is_taken=True)
        means2d = ctx.target()
        if view.absgrad and means2d is not None:
            means2d.absgrad = d_absolute
        return d_means2d, d_conics, d_opacities, d_features, d_depths, None


def pack(projection: Projection) -> Tensor:
    """Return the records [C, padded N, 16] of Gaussians that were projected elsewhere."""
    from renderers.gaussians.kernels.projection import HALF_LOG2_E, LEVEL_FACTOR, LEVEL_SLACK, LOG2_LEVELS

    means2d, depths, conics, opacities, radii = (field.detach() for field in projection)
    a, b, c = conics.double().unbind(-1)
    determinant = (a * c - b * b).clamp_min(1e-300)
    slope = (c * HALF_LOG2_E).sqrt()
    log2_opacity = opacities.double().clamp_min(1e-30).log2()
    extent = (((log2_opacity + LOG2_LEVELS).clamp_min(0.0) * LEVEL_FACTOR + LEVEL_SLACK) / HALF_LOG2_E).sqrt()
    half_x, half_y = extent * (c / determinant).sqrt(), extent * (a / determinant).sqrt()
    render = [slope, slope * b / c, HALF_LOG2_E * determinant / c, log2_opacity, depths, opacities]
    columns = [torch.stack([value.float() for value in render], dim=-1), conics]
    columns += [radii.contiguous().view(torch.float32)]
    columns += [torch.stack([half_x, half_y, -b / a * half_y], dim=-1).float()]
    rows = torch.cat([means2d, *columns], dim=-1)
    return torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % LANES)).contiguous()
