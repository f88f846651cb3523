"""Who takes part in `rasteriser`. Each runs once and returns CPU seconds of forward and of forward + backward."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import scalar_rasteriser as scalar
import torch
from rasteriser_scene import Scene
from torch.autograd.function import once_differentiable

from renderers.gaussians.projection import project
from renderers.gaussians.rasterise import rasterise

DENSE_LIMIT = 45_000_000
"""Pixel-Gaussian pairs above which the dense reference is left out (it would take minutes and gigabytes)."""
Seconds = tuple[float, float]


def run_ours(scene: Scene, backend: str = "cpu") -> Seconds:
    """Run the repository's rasteriser."""
    for leaf in scene.leaves:
        leaf.grad = None
    start = time.thread_time()
    image, alpha, _ = rasterise(*scene.leaves, scene.viewmats, scene.Ks, scene.size, scene.size, backend=backend)
    forward = time.thread_time() - start
    torch.autograd.backward([image, alpha], [scene.upstream, scene.upstream_alpha])
    return forward, time.thread_time() - start


def run_empty(scene: Scene) -> Seconds:
    """Run what torch itself does in a call of the rasteriser: a step of a graph that computes nothing.

    It has the inputs and outputs of projection and compositing, and the projected means keep their gradient.
    """
    for leaf in scene.leaves:
        leaf.grad = None
    splats = [(len(scene.viewmats), len(scene.leaves[0]), *tail) for tail in ((2,), (), (3,), (), (2,))]
    shapes = [scene.upstream.shape, scene.upstream_alpha.shape, *splats]
    start = time.thread_time()
    image, alpha, means2d, *_ = _Empty.apply(shapes, *scene.leaves, scene.viewmats, scene.Ks)
    means2d.retain_grad()
    forward = time.thread_time() - start
    torch.autograd.backward([image, alpha], [scene.upstream, scene.upstream_alpha])
    return forward, time.thread_time() - start


class _Empty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shapes: list[tuple[int, ...]], *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(*tensors)
        ctx.set_materialize_grads(False)
        return tuple(torch.empty(shape) for shape in shapes)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        needed = zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        return (None, *(torch.empty_like(tensor) if is_needed else None for tensor, is_needed in needed))


def run_dense(scene: Scene) -> Seconds:
    """Run the torch reference."""
    return run_ours(scene, "reference")


def prepare_scalar(scene: Scene) -> Callable[[], Seconds]:
    """Return a run of the compositing stage alone in scalar loops; projection and tile lists are made before."""
    with torch.no_grad():
        view = project(*scene.leaves[:4], scene.viewmats, scene.Ks, scene.size, scene.size)
        features = scene.leaves[4].detach().expand(len(scene.viewmats), -1, -1).contiguous().numpy()
    lists = scalar.tile_lists(view, scene.size, scene.size)
    fields = [field.detach().contiguous().numpy() for field in (view.means2d, view.conics, view.opacities)]
    arrays = [*fields, features, *lists]
    g_out, g_alpha = scene.upstream.numpy(), scene.upstream_alpha[..., 0].contiguous().numpy()
    shape = g_alpha.shape

    def run() -> Seconds:
        out, left = np.zeros((*shape, 3), np.float32), np.ones(shape, np.float32)
        start = time.thread_time()
        scalar.forward(0, 1, *arrays, scene.size, scene.size, out, left)
        forward = time.thread_time() - start
        remaining = (out * g_out).sum(axis=-1) + (1 - abs(left)) * g_alpha
        left, slots = np.ones(shape, np.float32), np.zeros((len(lists.entries), scalar.MOMENTS + 3), np.float32)
        start = time.thread_time()
        scalar.backward(0, 1, *arrays, scene.size, scene.size, g_out, g_alpha, remaining, left, slots)
        return forward, forward + time.thread_time() - start

    return run


def prepare_splax(scene: Scene) -> Callable[[], Seconds]:
    """Return a run of splax on the CPU: one compiled function for the picture, one for picture and gradients."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import jax
    import jax.numpy as jnp
    import warp

    warp.config.enable_cpu_blocks = True
    warp.config.quiet = True
    original = warp.jax_callable
    # It asks for a way of launching that Warp has on CUDA only.
    warp.jax_callable = lambda function, **options: original(
        function, **{**options, "graph_mode": warp.JaxCallableGraphMode.NONE}
    )
    import splax

    warp.jax_callable = original
    means, quats, scales, opacities, colours = (jnp.asarray(leaf.detach().numpy()) for leaf in scene.leaves)
    parameters = (
        means,
        jnp.log(scales),
        quats,
        splax.io.rgb_to_sh(colours)[:, None],
        jax.scipy.special.logit(opacities),
    )
    upstream, upstream_alpha = jnp.asarray(scene.upstream.numpy()), jnp.asarray(scene.upstream_alpha[..., 0].numpy())
    focal = float(scene.Ks[0, 0, 0])
    views = [jnp.asarray(view.numpy()) for view in scene.viewmats]
    options = {"background": jnp.zeros(3), "img_shape": (scene.size, scene.size), "f": (focal, focal)}

    def draw(parameters: Any) -> Any:
        return [splax.render(*parameters, viewmat=view, **options) for view in views]

    def loss(parameters: Any) -> Any:
        pairs = zip(draw(parameters), upstream, upstream_alpha, strict=True)
        return sum((image * g).sum() + (alpha * ga).sum() for (image, alpha), g, ga in pairs)

    forward_only, both = jax.jit(draw), jax.jit(jax.value_and_grad(loss))

    def run() -> Seconds:
        times = []
        for function in (forward_only, both):
            start = time.process_time()
            jax.block_until_ready(function(parameters))
            times.append(time.process_time() - start)
        return times[0], times[1]

    return run
