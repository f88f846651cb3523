"""The CPU back end: compiled kernels for sixteen floats at a time, deterministic for any number of threads."""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import weakref
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from renderers.gaussians import workers
from renderers.gaussians.projection import Projection
from renderers.gaussians.scratch import job_maker, lease

log = logging.getLogger(__name__)

LANES = 16
FLOAT_MAX = torch.finfo(torch.float32).max
PROJECTION_US, BINNING_US, ENTRY_US = 0.02, 0.1, 0.15
"""Rough microseconds that a Gaussian (projection, sorting and binning) and a tile entry take in one direction."""


@cache
def probe() -> str:
    """Return "available", or why the CPU kernels cannot run here and what would fix it."""
    if importlib.util.find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    return "available"


INPUTS = ("means", "quats", "scales", "opacities", "viewmats", "intrinsics")


class View(NamedTuple):
    """What to draw: the image size, whether depth is the last channel, whether that is divided by alpha, and whether
    absolute gradients are collected."""

    width: int
    height: int
    with_depth: bool = False
    expected: bool = False
    absgrad: bool = False


def project(
    *tensors: Tensor, width: int, height: int, checked: dict[str, Tensor] | None = None, **options: Any
) -> tuple[Projection, Tensor, bool]:
    """Return what `projection.project` returns for the same arguments, the records that `composite` reads, and whether
    all values are usable, including those of `checked` (colors, backgrounds).

    NaN, infinities and quaternions of length 0 are not; the results are then meaningless. (Huge values may be taken for
    infinities.)
    Limits: float32 on CPU; no gradients for the cameras.
    """
    flag = ctypes.c_int64(0)
    options = {name: min(value, FLOAT_MAX) for name, value in options.items()}
    options |= {"width": width, "height": height, "flag": ctypes.addressof(flag)}
    looked_at = {name: tensor.detach().contiguous() for name, tensor in (checked or {}).items()}
    for name, tensor in looked_at.items():
        options |= {name: tensor.data_ptr(), f"{name[:-1]}_floats": tensor.numel()}
    *fields, records = _Project.apply(*tensors, options)
    means2d, depths, conics, opacities, radii = fields
    return Projection(means2d, depths, conics, opacities, radii), records, flag.value == 0


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        """Take means, quats, scales, opacities, viewmats, Ks, and further fields of the job."""
        kernels = _kernels()
        *given, options = arguments
        tensors = [tensor.contiguous() for tensor in given]
        count, cameras = tensors[0].shape[0], tensors[4].shape[0]
        padded = -(-count // LANES) * LANES
        threads = workers.thread_count(PROJECTION_US * count * cameras)
        memory, (records, spare) = lease([cameras * padded * 4 * LANES, threads * kernels.projection.SPARE_BYTES])
        values = {"count": count, "cameras": cameras, "records": records, "spare": spare, **options}
        for name, tensor in zip(INPUTS, tensors, strict=True):
            values[name] = tensor.data_ptr()
        workers.run(threads, kernels.projection.forward, kernels.projection_job(values), is_taken=True)
        ctx.save_for_backward(*tensors)
        ctx.values, ctx.threads = values, threads
        ctx.set_materialize_grads(False)
        outputs = _fields(memory.view(torch.float32), cameras, count, padded)
        ctx.mark_non_differentiable(*outputs[4:])
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        tensors = ctx.saved_tensors
        spare = torch.empty(ctx.threads * kernels.projection.SPARE_BYTES, dtype=torch.uint8)
        incoming = [None if gradient is None else gradient.contiguous() for gradient in upstream[:4]]
        gradients = [torch.empty_like(tensor) for tensor in tensors[:4]]
        values = ctx.values | {"spare": spare.data_ptr()}
        for name, gradient in zip(("g_means2d", "g_depths", "g_conics", "g_opacities"), incoming, strict=True):
            values[name] = 0 if gradient is None else gradient.data_ptr()
        for name, gradient in zip(("d_means", "d_quats", "d_scales", "d_opacities"), gradients, strict=True):
            values[name] = gradient.data_ptr()
        workers.run(ctx.threads, kernels.gradient.backward, kernels.projection_job(values), is_taken=True)
        return (*gradients, None, None, None)


def _fields(memory: Tensor, cameras: int, count: int, padded: int) -> tuple[Tensor, ...]:
    """Return means2d, depths, conics, opacities, radii as views of projection records, and the records."""
    rows, strides = (cameras, count), (padded * LANES, LANES)
    pairs, triples = (cameras, count, 2), (cameras, count, 3)
    return (
        memory.as_strided(pairs, (*strides, 1), 0),
        memory.as_strided(rows, strides, 6),
        memory.as_strided(triples, (*strides, 1), 8),
        memory.as_strided(rows, strides, 7),
        memory.view(torch.int32).as_strided(pairs, (*strides, 1), 11),
        memory.as_strided((cameras, padded, LANES), (*strides, 1), 0),
    )


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
    inputs = (means2d, conics, opacities, depths, features, backgrounds, records)
    return _Composite.apply(*inputs, view, weakref.ref(means2d))


class _Composite(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, Tensor]:
        """Take means2d, conics, opacities, depths, features, backgrounds, records, the view, and a reference to the
        tensor that receives `absgrad`."""
        kernels = _kernels()
        means2d, _, _, _, features, backgrounds, records, view, target = arguments
        features = features.contiguous()
        cameras, channels = records.shape[0], features.shape[-1]
        drawn, width = channels + view.with_depth, -(-view.width // LANES) * LANES
        behind = torch.zeros(cameras, drawn)
        if backgrounds is not None:
            behind[:, :channels] = backgrounds
        out = torch.empty(cameras, drawn + 1, view.height, width)
        picture = {"backgrounds": behind.data_ptr(), "out": out.data_ptr(), "out_width": width}
        frame = _Frame(kernels, records, features, means2d.shape[1], view, picture)
        workers.run(frame.threads, kernels.raster.forward(frame.floats), frame.job, is_taken=True)
        plane = view.height * width
        strides = ((drawn + 1) * plane, width, 1, plane)
        images = out.as_strided((cameras, view.height, view.width, drawn), strides, 0)
        alphas = out.as_strided((cameras, view.height, view.width, 1), strides, drawn * plane)
        ctx.save_for_backward(records, features, frame.kept, frame.lists, images)
        frame.kept = frame.lists = None  # held by the graph alone, so that they go when backward has run
        ctx.frame, ctx.behind, ctx.view, ctx.target = frame, behind, view, target  # behind: its address is in use
        ctx.set_materialize_grads(False)
        return images, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_images: Tensor | None, g_alphas: Tensor | None) -> tuple[Tensor | None, ...]:
        kernels = _kernels()
        records, features, *_ = ctx.saved_tensors
        frame, view = ctx.frame, ctx.view
        rows = (records.shape[0], frame.count)
        _slots, (at_slots, at_spare) = lease([frame.slot_bytes * frame.entries, frame.threads * frame.spare_bytes])
        gradients = {"d_means2d": torch.empty(*rows, 2), "d_conics": torch.empty(*rows, 3)}
        gradients |= {"d_opacities": torch.empty(rows), "d_features": torch.empty_like(features)}
        if view.with_depth:
            gradients["d_depths"] = torch.empty(rows)
        if view.absgrad:
            gradients["d_absolute"] = torch.empty(*rows, 2)
        values = {**frame.values, "slots": at_slots, "spare": at_spare, **_upstream(g_images, g_alphas)}
        for name, gradient in gradients.items():
            values[name] = gradient.data_ptr()
        job = kernels.frame_job(values)
        workers.run(frame.threads, kernels.raster.backward(frame.floats, view.absgrad), job, is_taken=True)
        job["cursor"] = 0
        workers.run(frame.threads, kernels.reduce.reduce, job, is_taken=True)
        means2d = ctx.target()
        if view.absgrad and means2d is not None:
            means2d.absgrad = gradients["d_absolute"]
        names = ("d_means2d", "d_conics", "d_opacities", "d_depths", "d_features")
        return (*(gradients.get(name) for name in names), None, None, None, None)


class _Frame:
    """Binned Gaussians: the job record of one compositing call and the memory it points to."""

    kept: Tensor | None
    lists: Tensor | None

    def __init__(
        self,
        kernels: SimpleNamespace,
        records: Tensor,
        features: Tensor,
        count: int,
        view: View,
        picture: dict[str, int],
    ) -> None:
        layout = kernels.layout
        cameras, padded, _ = records.shape
        channels = features.shape[-1]
        self.count, self.floats = count, layout.feature_floats(channels + view.with_depth)
        self.slot_bytes, render_bytes = layout.slot_bytes(self.floats), layout.record_bytes(self.floats)
        self.spare_bytes = kernels.pixels.spare_bytes(self.floats) + LANES * self.slot_bytes
        tiles_x, tiles_y = -(-view.width // layout.TILE), -(-view.height // layout.TILE)
        threads = min(cameras, workers.thread_count(BINNING_US * cameras * count))
        per_tile, per_gaussian = 8 * cameras * (tiles_x * tiles_y + 1), cameras * count
        sizes = [4 * per_gaussian, 4 * per_gaussian, 8 * cameras, 8 * cameras, 8 * (per_gaussian + cameras)]
        sizes += [per_tile, per_tile, render_bytes * per_gaussian, threads * kernels.tiles.key_bytes(count)]
        self.kept, at = lease(sizes)
        names = ("order", "rank", "visible", "bound", "starts", "begins", "ends", "renders", "keys")
        self.values = values = {**dict(zip(names, at, strict=True)), **view._asdict(), **picture}
        values |= {"count": count, "padded": padded, "cameras": cameras, "tiles_x": tiles_x, "tiles_y": tiles_y}
        values |= {"records": records.data_ptr(), "features": features.data_ptr(), "channels": channels}
        values |= {"feature_stride": 4 * count * channels if features.dim() == 3 else 0, "slot_bytes": self.slot_bytes}
        values |= {"compiled_channels": self.floats, "render_bytes": render_bytes, "spare_bytes": self.spare_bytes}
        self.entries = sum(workers.run(threads, kernels.tiles.sort, kernels.frame_job(values)))
        self.threads = workers.thread_count(ENTRY_US * self.entries)
        entry_bytes = layout.ENTRY_BYTES * self.entries
        self.lists, at = lease((entry_bytes, entry_bytes, self.threads * self.spare_bytes))
        values["lists"], values["entries"], values["spare"] = at
        self.job = kernels.frame_job(values)
        workers.run(threads, kernels.tiles.fill, self.job)


def _upstream(g_images: Tensor | None, g_alphas: Tensor | None) -> dict[str, int]:
    """Return addresses and byte strides of the incoming gradients."""
    values = {"g_out": 0, "g_alpha": 0}
    if g_images is not None:
        names = ("g_camera", "g_row", "g_column", "g_channel")
        values = {name: 4 * stride for name, stride in zip(names, g_images.stride(), strict=True)}
        values |= {"g_out": g_images.data_ptr(), "g_alpha": 0}
    if g_alphas is not None:
        names = ("ga_camera", "ga_row", "ga_column")
        values |= {name: 4 * stride for name, stride in zip(names, g_alphas.stride()[:3], strict=True)}
        values["g_alpha"] = g_alphas.data_ptr()
    return values


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


@cache
def _kernels() -> SimpleNamespace:
    """Import the kernels, saying so once if they have to be compiled."""
    from renderers.gaussians.kernels import layout, pixels, projection, projection_gradient, raster, reduce, tiles
    from renderers.gaussians.kernels.compiling import is_cached, sources

    if not is_cached(projection.forward, sources()):
        log.warning(
            "Compiling the CPU rasteriser: once per installation, about half a minute, kept in %s",
            projection.forward.stats.cache_path,
        )
    modules = {"layout": layout, "pixels": pixels, "projection": projection, "gradient": projection_gradient}
    jobs = {"frame_job": job_maker(layout.JOB), "projection_job": job_maker(projection.JOB)}
    return SimpleNamespace(**modules, **jobs, raster=raster, reduce=reduce, tiles=tiles)
