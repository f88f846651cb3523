"""Frames that are drawn twice: once for their pixels, and once more, with a graph, when their gradient is needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from renderers.base import Render
from renderers.motion.base import Moved

Draw = Callable[[Moved], Render]
_PLACES = ("points", "offsets", "turns", "log_scales")
_WHOLE = ("rotation", "scale", "translation", "quaternion")


def redrawn(draw: Draw, moved: Moved) -> Render:
    """Return `draw(moved)` with the same gradient by `moved`, but without its graph in memory.

    Only rgb and alpha carry a gradient; parameters inside `draw` must be frozen. Generic recomputation of torch
    (torch.utils.checkpoint) cannot be used: it recomputes tensors in other places, and compiled kernels remember places.
    """
    kept: list[Render] = []
    rgb, alpha = _Redrawn.apply(draw, moved, kept, *_tensors(moved))
    return replace(kept[0], rgb=rgb, alpha=alpha)


class _Redrawn(torch.autograd.Function):
    """Draws without graph; the backward pass draws again from detached copies of what moved."""

    @staticmethod
    def forward(ctx: Any, draw: Draw, moved: Moved, kept: list[Render], *tensors: Tensor) -> tuple[Tensor, Tensor]:
        ctx.draw, ctx.moved = draw, _with(moved, [tensor.detach() for tensor in tensors])
        with torch.enable_grad():  # nothing asks for a gradient here, but renderers may draw otherwise without one
            kept.append(draw(ctx.moved))
        return kept[0].rgb, kept[0].alpha

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_() for tensor in _tensors(ctx.moved)]
            drawn = ctx.draw(_with(ctx.moved, leaves))
            pairs = zip((drawn.rgb, drawn.alpha), gradients, strict=True)
            used = [(plane, gradient) for plane, gradient in pairs if plane.requires_grad]
            if not used:
                return (None,) * (3 + len(leaves))
            planes, given = zip(*used, strict=True)
            found = torch.autograd.grad(planes, leaves, given, allow_unused=True)
        return (None, None, None, *found)


def _tensors(moved: Moved) -> list[Tensor]:
    whole = [getattr(moved.similarity, name) for name in _WHOLE]
    return [*whole, *(value for name in _PLACES if (value := getattr(moved, name)) is not None)]


def _with(moved: Moved, tensors: list[Tensor]) -> Moved:
    names = [name for name in _PLACES if getattr(moved, name) is not None]
    whole = moved.similarity._replace(**dict(zip(_WHOLE, tensors, strict=False)))
    return replace(moved, similarity=whole, **dict(zip(names, tensors[len(_WHOLE) :], strict=True)))
