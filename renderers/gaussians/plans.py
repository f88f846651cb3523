"""The compiled kernels, and plans: what all calls of one shape have in common, worked out once and kept."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from renderers.gaussians.scratch import JobRecords, offsets

log = logging.getLogger(__name__)

LANES = 16
FLOAT_MAX = torch.finfo(torch.float32).max
PROJECTION_US = 0.02
"""Rough microseconds that projecting a Gaussian takes in one direction."""
PLANS = 64
"""Shapes whose plans are kept (a kilobyte each)."""
Strided = tuple[tuple[int, ...], tuple[int, ...], int]
"""Shape, strides and offset for `Tensor.as_strided`."""


class View(NamedTuple):
    """What to draw: the image size, whether depth is the last channel, whether that is divided by alpha, and whether
    absolute gradients are collected."""

    width: int
    height: int
    with_depth: bool = False
    expected: bool = False
    absgrad: bool = False


class ProjectionPlan(NamedTuple):
    """A projection of N Gaussians to C cameras: the job's template, bytes of the records, where its results lie in them
    (in floats), and the microseconds it may take."""

    template: bytes
    record_bytes: int
    means2d: Strided
    depths: Strided
    conics: Strided
    opacities: Strided
    radii: Strided
    records: Strided
    microseconds: float


class FramePlan(NamedTuple):
    """A picture of N Gaussians in C cameras: the job's template, the offsets of its memory, a black background, shapes of
    what is drawn, kernels, sizes in bytes, and how many threads sort and bin."""

    template: bytes
    memory: list[int]
    memory_bytes: int
    black: Tensor
    out: tuple[int, ...]
    rows: tuple[int, ...]
    pairs: tuple[int, ...]
    triples: tuple[int, ...]
    images: Strided
    alphas: Strided
    draw: Callable[..., Any]
    sweep: Callable[..., Any]
    slot_bytes: int
    spare_bytes: int
    sorters: int
    binners: int


@cache
def kernels() -> SimpleNamespace:
    """Import the kernels, saying so once if they have to be compiled."""
    with _paused_collection():
        from renderers.gaussians.kernels import layout, pixels, projection, projection_gradient, raster, reduce, tiles
        from renderers.gaussians.kernels.compiling import is_cached, sources

        if is_cached(projection.forward, sources()):
            projection.forward(np.zeros(1, projection.JOB), 0, 1)  # no Gaussians: numba loads what all kernels need
        else:
            log.warning(
                "Compiling the CPU rasteriser: once per installation, about half a minute, kept in %s",
                projection.forward.stats.cache_path,
            )
    projecting, drawing = JobRecords(projection.JOB), JobRecords(layout.JOB)
    loose, tied = "g_means2d g_depths g_conics g_opacities", "d_means d_quats d_scales d_opacities"
    looked_at = "colors color_floats backgrounds background_floats"
    incoming = "g_out g_camera g_row g_column g_channel g_alpha ga_camera ga_row ga_column ga_channel"
    results = "d_means2d d_conics d_opacities d_features d_depths d_absolute"
    memory = "order rank visible bounds starts begins numbers places renders keys"
    return SimpleNamespace(
        layout=layout,
        pixels=pixels,
        raster=raster,
        key_bytes=tiles.key_bytes,
        project=projection.forward,
        project_back=projection_gradient.backward,
        sort=tiles.sort,
        fill=tiles.fill,
        distribute=tiles.distribute,
        reduce=reduce.reduce,
        projecting=projecting,
        drawing=drawing,
        projection_spare=projection.SPARE_BYTES,
        put_inputs=projecting.writer(f"means quats scales opacities viewmats intrinsics records {looked_at} spare"),
        put_projection_gradients=projecting.writer(f"spare {loose} {tied}"),
        put_frame=drawing.writer(f"records features backgrounds out {memory}"),
        put_lists=drawing.writer("lists entries spare"),
        put_frame_gradients=drawing.writer(f"spare slots {incoming} {results}"),
    )


@contextmanager
def _paused_collection() -> Iterator[None]:
    """Switch the collection of garbage off: while hundreds of modules are imported it would look again and again through
    all objects of torch and numba, a fifth of the time, and find next to nothing."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@lru_cache(maxsize=PLANS)
def plan_projection(
    count: int,
    cameras: int,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    radius_clip: float,
    antialiased: bool,
) -> ProjectionPlan:
    """Return the plan of a projection; numbers that float32 does not have mean infinity."""
    padded = -(-count // LANES) * LANES
    values: dict[str, int | float] = {"count": count, "cameras": cameras, "width": width, "height": height}
    thresholds = {"near_plane": near_plane, "far_plane": far_plane, "eps2d": eps2d, "radius_clip": radius_clip}
    values |= {name: min(value, FLOAT_MAX) for name, value in thresholds.items()}
    rows, strides = (cameras, count), (padded * LANES, LANES)
    pairs, triples = (cameras, count, 2), (cameras, count, 3)
    return ProjectionPlan(
        template=kernels().projecting.template(values | {"antialiased": antialiased}),
        record_bytes=4 * LANES * cameras * padded,
        means2d=(pairs, (*strides, 1), 0),
        depths=(rows, strides, 6),
        conics=(triples, (*strides, 1), 8),
        opacities=(rows, strides, 7),
        radii=(pairs, (*strides, 1), 11),
        records=((cameras, padded, LANES), (*strides, 1), 0),
        microseconds=PROJECTION_US * count * cameras,
    )


@lru_cache(maxsize=PLANS)
def plan_frame(
    count: int, padded: int, cameras: int, channels: int, has_own_features: bool, view: View, threads: int
) -> FramePlan:
    """Return the plan of a picture.

    Args:
        count, padded: Gaussians, and how many records a camera has. channels: without depth. has_own_features: whether
        each camera has its own. threads: how many may bin.
    """
    found, (width, height) = kernels(), view[:2]
    layout, drawn = found.layout, channels + view.with_depth
    floats, out_width = layout.feature_floats(drawn), -(-width // LANES) * LANES
    tiles_x, tiles_y = -(-width // layout.TILE), -(-height // layout.TILE)
    values = {**view._asdict(), "count": count, "padded": padded, "cameras": cameras, "channels": channels}
    values |= {"tiles_x": tiles_x, "tiles_y": tiles_y, "chunks": -(-threads // cameras), "out_width": out_width}
    values |= {"feature_stride": 4 * count * channels if has_own_features else 0, "compiled_channels": floats}
    values |= {"slot_bytes": layout.slot_bytes(floats), "render_bytes": layout.record_bytes(floats)}
    values["spare_bytes"] = found.pixels.spare_bytes(floats) + LANES * values["slot_bytes"]
    sorters, splats, chunks = min(cameras, threads), cameras * count, cameras * values["chunks"]
    by_tile = 8 * (tiles_x * tiles_y + 1)
    sizes = [4 * splats, 4 * splats, 8 * cameras, 8 * chunks, 8 * splats, cameras * by_tile, chunks * by_tile]
    sizes += [chunks * by_tile, values["render_bytes"] * splats, sorters * found.key_bytes(count)]
    *memory, memory_bytes = offsets(sizes)
    plane, size = height * out_width, (cameras, height, width)
    strides = ((drawn + 1) * plane, out_width, 1, plane)
    return FramePlan(
        template=found.drawing.template(values),
        memory=memory,
        memory_bytes=memory_bytes,
        black=torch.zeros(cameras, drawn, dtype=torch.float32, device="cpu"),
        out=(cameras, drawn + 1, height, out_width),
        rows=(cameras, count),
        pairs=(cameras, count, 2),
        triples=(cameras, count, 3),
        images=((*size, drawn), strides, 0),
        alphas=((*size, 1), strides, drawn * plane),
        draw=found.raster.forward(floats),
        sweep=found.raster.backward(floats, view.absgrad),
        slot_bytes=values["slot_bytes"],
        spare_bytes=values["spare_bytes"],
        sorters=sorters,
        binners=min(threads, chunks),
    )
