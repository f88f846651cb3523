"""Deferred back-propagation: the gradient of long clips with the memory of a few frames, by doing work twice.

Splitting a sum over frames changes no number but the order of additions, and the activations of a chunk are freed
before the next chunk is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from sds3d.errors import ConfigError

Encode = Callable[[Tensor], Tensor]
"""Makes latents [n, ...] of n pictures or clips [n, ...], each by itself."""


class _Deferred(torch.autograd.Function):
    """Runs without graph; the backward pass runs each chunk again, with a graph of that chunk only."""

    @staticmethod
    def forward(ctx: Any, encode: Encode, chunk: int, samples: Tensor) -> Tensor:
        ctx.encode, ctx.chunk = encode, chunk
        ctx.save_for_backward(samples)
        return torch.cat([encode(samples[part]) for part in chunks(len(samples), chunk)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        (samples,) = ctx.saved_tensors
        found = [_gradient(ctx.encode, samples[part], gradients[0][part]) for part in chunks(len(samples), ctx.chunk)]
        return None, None, torch.cat(found)


def deferred(encode: Encode, samples: Tensor, chunk: int) -> Tensor:
    """Return `encode(samples)` with the same gradient, but activations of `chunk` samples at a time.

    Args:
        encode: must treat the samples of a batch independently and use no random numbers: pictures of a picture
            autoencoder, whole clips of a causal one.
        samples: [n, ...].
        chunk: samples encoded together, at least 1; 0 means all at once, with the ordinary graph.
    Limits: the encoder runs twice; its own parameters get no gradient (they are frozen); no double backward.
    """
    if chunk < 0:
        raise ConfigError(f"The chunk of deferred back-propagation is {chunk}; needed is at least 0 (0: all at once).")
    if chunk == 0:
        return encode(samples)
    made: Tensor = _Deferred.apply(encode, chunk, samples)
    return made


Render = Callable[[slice], Tensor]
"""Renders the frames of a slice of a clip: [n, H, W, C]."""


def render_without_graph(render: Render, frames: int, chunk: int = 1) -> Tensor:
    """Return all frames [F, H, W, C] of a clip, `chunk` at a time and without a graph."""
    with torch.no_grad():
        return torch.cat([render(part) for part in chunks(frames, max(chunk, 1))])


def backward_by_frame(render: Render, gradient: Tensor, chunk: int = 1) -> None:
    """Add to the parameters behind `render` the gradient of sum(frames * gradient), a chunk of frames at a time.

    The same parameter gradient as one backward pass through all frames; peak memory is that of `chunk` frames.

    Args:
        gradient: [F, H, W, C] gradient in the pixels, without graph.
    """
    for part in chunks(len(gradient), max(chunk, 1)):
        (render(part) * gradient[part]).sum().backward()  # type: ignore[no-untyped-call]


def chunks(length: int, chunk: int) -> Iterator[slice]:
    """Yield slices of `chunk` elements that cover `length`."""
    for start in range(0, length, chunk):
        yield slice(start, min(start + chunk, length))


def _gradient(encode: Encode, part: Tensor, gradient: Tensor) -> Tensor:
    with torch.enable_grad():
        leaf = part.detach().requires_grad_()
        (found,) = torch.autograd.grad(encode(leaf), leaf, gradient)
    return found
