"""The CPU back end: compiled kernels for sixteen floats at a time, deterministic for any number of threads.

A call of the rasteriser on a few Gaussians takes about as long here as in the kernels, hence the brevity: what depends on
shapes alone is in `plans`, a job record is copied, not made, and projecting and drawing are one step of torch's graph.
"""

from __future__ import annotations

import importlib.util
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.gaussians import workers
from renderers.gaussians.packing import pack
from renderers.gaussians.plans import FramePlan, View, kernels, plan_frame, plan_projection
from renderers.gaussians.projection import Projection
from renderers.gaussians.scratch import lease

BINNING_US, ENTRY_US = 0.1, 0.15
"""Rough microseconds that a Gaussian (sorting and binning) and a tile entry (drawing) take in one direction."""
NO_GRADIENT = (0, 0, 0, 0, 0)
NO_SHAPES = (None, None, None, None)
Thresholds = tuple[float, float, float, float, bool]
"""near_plane, far_plane, eps2d, radius_clip, antialiased, as `projection.project` has them."""


@cache
def probe() -> str:
    """Return "available", or why the CPU kernels cannot run here and what would fix it."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return "available"


def render(
    tensors: Sequence[Tensor],
    features: Tensor,
    view: View,
    thresholds: Thresholds,
    backgrounds: Tensor | None = None,
    looked_at: Sequence[Tensor | None] = (None, None),
    check: Callable[[], None] = lambda: None,
) -> tuple[Tensor, Tensor, Projection]:
    """Return what `composite` draws of what `projection.project` finds, and the latter, by one step of the graph.

    (Two steps cost a small scene a fifth more beyond the kernels. The price of one: `torch.autograd.grad` of a picture with
    respect to the projected means finds no way; backward puts their gradient into `.grad`.)

    Args:
        tensors, thresholds: those of `project`. features, view, backgrounds: those of `composite`.
        looked_at: two further tensors whose values have to be usable.
        check: called if a value is NaN or infinite or a quaternion has length 0; what is drawn is then meaningless, so it
            should raise. (Huge values may be taken for infinities.)
    Limits: float32 on CPU; no gradients for cameras and backgrounds.
    """
    target: list[weakref.ref[Tensor]] = []
    more = (tensors[4:], view, thresholds, backgrounds, looked_at, check, target)
    images, alphas, means2d, *others = _Render.apply(*tensors[:4], features, more)
    if means2d.requires_grad:
        means2d.retain_grad()
        target.append(weakref.ref(means2d))
    return images, alphas, Projection(means2d, *others)


def _once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Return `backward` refusing second derivatives, as torch's `once_differentiable` does, but at a price only for who
    asks for them (create_graph): torch switches gradients on for their sake."""
    guarded = once_differentiable(backward)
    return lambda ctx, *given: (guarded if torch.is_grad_enabled() else backward)(ctx, *given)


class _Render(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Take means, quats, scales, opacities, features, and, in one tuple, what `render` makes of the rest."""
        *tensors, features, (cameras, view, thresholds, backgrounds, looked_at, check, ctx.target) = arguments
        tensors = [tensor.contiguous() for tensor in (*tensors, *cameras)]
        ctx.placed, projection, records, is_usable = project(tensors, view, thresholds, looked_at)
        if not is_usable:
            check()
        ctx.drawn, images, alphas, memory = _draw(projection.means2d.shape[1], records, features, view, backgrounds)
        ctx.save_for_backward(*tensors, *memory)
        ctx.mark_non_differentiable(projection.radii)
        ctx.set_materialize_grads(False)
        return images, alphas, *projection

    @staticmethod
    @_once
    def backward(ctx: Any, g_images: Tensor | None, g_alphas: Tensor | None, *given: Tensor | None) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        tensors, memory = saved[:6], saved[6:]
        swept = _sweep(ctx.drawn, memory, g_images, g_alphas)
        means2d = ctx.target[0]()
        if means2d is not None:
            means2d.grad = swept.means2d if means2d.grad is None else means2d.grad + swept.means2d
            means2d.absgrad = swept.absolute
        if not any(ctx.needs_input_grad[:4]):  # colours alone are learned
            return (*NO_SHAPES, swept.features, None)
        incoming = [a if b is None else b if a is None else a + b for a, b in zip(swept[:4], given[:4], strict=True)]
        return (*_project_back(ctx.placed, tensors, incoming), swept.features, None)


class Placed(NamedTuple):
    """A projection that has run: its job, its threads, and the addresses of its inputs."""

    job: bytearray
    threads: int
    inputs: list[int]


def project(
    tensors: Sequence[Tensor], view: View, thresholds: Thresholds, looked_at: Sequence[Tensor | None] = (None, None)
) -> tuple[Placed, Projection, Tensor, bool]:
    """Return what backward needs, what `projection.project` returns, the records [C, padded N, 16] that `composite` reads,
    and whether all values are usable, those of two further tensors included; no gradients.

    Args:
        tensors: contiguous means, quats, scales, opacities, viewmats and Ks.
        thresholds: see `Thresholds`.
    """
    found = kernels()
    plan = plan_projection(len(tensors[0]), len(tensors[4]), view.width, view.height, *thresholds)
    threads = workers.thread_count(plan.microseconds)
    memory, start = lease(plan.record_bytes + threads * found.projection_spare)
    looked_at = [None if tensor is None else tensor.contiguous() for tensor in looked_at]
    places = [n for t in looked_at for n in ((0, 0) if t is None else (t.data_ptr(), t.numel()))]
    job = bytearray(plan.template)
    inputs = [tensor.data_ptr() for tensor in tensors]
    found.put_inputs(job, *inputs, start, *places, start + plan.record_bytes)
    are_usable = workers.run(threads, found.project, found.projecting.view(job), is_taken=True)
    fields = [memory.as_strided(*field) for field in (plan.means2d, plan.depths, plan.conics, plan.opacities)]
    radii = memory.view(torch.int32).as_strided(*plan.radii)
    return Placed(job, threads, inputs), Projection(*fields, radii), memory.as_strided(*plan.records), all(are_usable)


def _project_back(placed: Placed, tensors: Sequence[Tensor], incoming: Sequence[Tensor | None]) -> list[Tensor]:
    """Return the gradients of means, quats, scales and opacities for those of means2d, depths, conics and opacities."""
    found = kernels()
    incoming = [None if gradient is None else gradient.contiguous() for gradient in incoming]
    gradients = [torch.empty_like(tensor) for tensor in tensors[:4]]
    spare = tensors[0].new_empty(placed.threads * found.projection_spare // 4)
    places = [0 if gradient is None else gradient.data_ptr() for gradient in (*incoming, *gradients)]
    job = bytearray(placed.job)  # a graph may be walked again
    if [tensor.data_ptr() for tensor in tensors] != placed.inputs:  # hooks have moved them: see `_in_place`
        tensors = [tensor.contiguous() for tensor in tensors]
        found.put_inputs(job, *[tensor.data_ptr() for tensor in tensors], 0, 0, 0, 0, 0, 0)
    found.put_projection_gradients(job, spare.data_ptr(), *places)
    workers.run(placed.threads, found.project_back, found.projecting.view(job), is_taken=True)
    return gradients


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
    records = pack(projection) if records is None else records
    more = (view, records, backgrounds, projection.radii, weakref.ref(projection.means2d))
    images, alphas = _Composite.apply(*projection[:4], features, more)
    return images, alphas


class _Composite(torch.autograd.Function):
    """Drawing alone, for Gaussians that torch has projected."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Take means2d, depths, conics, opacities, features, and, in one tuple, what `composite` makes of the rest."""
        *_, features, (view, records, backgrounds, radii, ctx.target) = arguments
        ctx.drawn, images, alphas, memory = _draw(radii.shape[1], records, features, view, backgrounds)
        ctx.save_for_backward(*memory)
        ctx.set_materialize_grads(False)
        return images, alphas

    @staticmethod
    @_once
    def backward(ctx: Any, g_images: Tensor | None, g_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        swept = _sweep(ctx.drawn, ctx.saved_tensors, g_images, g_alphas)
        means2d = ctx.target()
        if means2d is not None:
            means2d.absgrad = swept.absolute
        return (*swept[:4], swept.features, None)


class Drawn(NamedTuple):
    """A picture that has been drawn: its job, plan and view, tile entries, threads, the backgrounds, whose address is in
    the job, and the addresses of the memory that backward reads."""

    job: bytearray
    plan: FramePlan
    view: View
    entries: int
    threads: int
    behind: Tensor
    places: list[int]


class Swept(NamedTuple):
    """Gradients of a picture; depths where depth is a channel, absolute where absgrad was asked for."""

    means2d: Tensor
    depths: Tensor | None
    conics: Tensor
    opacities: Tensor
    features: Tensor
    absolute: Tensor | None


def _draw(
    count: int, records: Tensor, features: Tensor, view: View, backgrounds: Tensor | None
) -> tuple[Drawn, Tensor, Tensor, tuple[Tensor, ...]]:
    """Return what backward needs, images, alphas, and the memory that backward reads."""
    found, (cameras, padded, _), features = kernels(), records.shape, features.contiguous()
    channels = features.shape[-1]
    threads = workers.thread_count(BINNING_US * cameras * count)
    plan = plan_frame(count, padded, cameras, channels, features.dim() == 3, view, threads)
    behind = plan.black
    if backgrounds is not None:
        behind = torch.nn.functional.pad(backgrounds.detach(), (0, view.with_depth)).contiguous()
    out = records.new_empty(plan.out)
    kept, kept_start = lease(plan.memory_bytes)
    job = bytearray(plan.template)
    given = (records.data_ptr(), features.data_ptr(), behind.data_ptr(), out.data_ptr())
    found.put_frame(job, *given, *[kept_start + offset for offset in plan.memory])
    record = found.drawing.view(job)
    entries = -(-sum(workers.run(plan.sorters, found.sort, record)) // 4) * 4  # whole cache lines
    threads, size = workers.thread_count(ENTRY_US * entries), found.layout.ENTRY_BYTES * entries
    lists, start = lease(2 * size + threads * plan.spare_bytes)
    found.put_lists(job, start, start + size, start + 2 * size)
    workers.run(plan.binners, found.fill, record, is_taken=True)
    workers.run(plan.binners, found.distribute, record, is_taken=True)
    workers.run(threads, plan.draw, record, is_taken=True)
    images, alphas = out.as_strided(*plan.images), out.as_strided(*plan.alphas)
    drawn = Drawn(job, plan, view, entries, threads, behind, [*given[:2], kept_start, start, given[3]])
    return drawn, images, alphas, (records, features, kept, lists, images)


def _in_place(drawn: Drawn, memory: Sequence[Tensor]) -> tuple[Drawn, Sequence[Tensor]]:
    """Return a picture and its memory, drawn again if the memory is not where it was.

    Hooks on saved tensors (activation checkpointing, offloading) hand over copies, and the job has the old addresses.
    """
    if [part.data_ptr() for part in memory] == drawn.places:
        return drawn, memory
    records, features, count = memory[0].contiguous(), memory[1], drawn.plan.rows[1]
    drawn, _, _, memory = _draw(count, records, features, drawn.view, drawn.behind[:, : features.shape[-1]])
    return drawn, memory


def _sweep(drawn: Drawn, memory: Sequence[Tensor], g_images: Tensor | None, g_alphas: Tensor | None) -> Swept:
    """Return the gradients of what was drawn, for those of images and alphas."""
    drawn, memory = _in_place(drawn, memory)
    found, (records, features, *_) = kernels(), memory
    plan, view = drawn.plan, drawn.view
    size = plan.slot_bytes * drawn.entries
    _slots, start = lease(size + drawn.threads * plan.spare_bytes)
    d_means2d = records.new_empty(plan.pairs)
    swept = Swept(
        means2d=d_means2d,
        depths=records.new_empty(plan.rows) if view.with_depth else None,
        conics=records.new_empty(plan.triples),
        opacities=records.new_empty(plan.rows),
        features=torch.empty_like(features),
        absolute=torch.empty_like(d_means2d) if view.absgrad else None,
    )
    incoming = [
        number
        for gradient in (g_images, g_alphas)
        for number in (NO_GRADIENT if gradient is None else (gradient.data_ptr(), *gradient.stride()))
    ]
    results = (swept.means2d, swept.conics, swept.opacities, swept.features, swept.depths, swept.absolute)
    job = bytearray(drawn.job)  # a graph may be walked again
    places = [0 if result is None else result.data_ptr() for result in results]
    found.put_frame_gradients(job, start + size, start, *incoming, *places)
    record = found.drawing.view(job)
    workers.run(drawn.threads, plan.sweep, record, is_taken=True)
    workers.run(drawn.threads, found.reduce, record, is_taken=True)
    return swept
