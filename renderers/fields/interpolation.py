"""Weighted sums of table rows, the inner loop of every grid encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _WeightedRows(torch.autograd.Function):
    """out[n] = sum_k weights[n, k] table[index[n, k]], without storing the gathered rows."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, index, weights)
        return torch.nn.functional.embedding_bag(index, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, index, weights = ctx.saved_tensors
        for_table = _spread(gradient, index, weights, table) if ctx.needs_input_grad[0] else None
        for_weights = None
        if ctx.needs_input_grad[2]:
            rows = table.index_select(0, index.reshape(-1)).view(*index.shape, table.shape[1])
            for_weights = (rows * gradient[:, None]).sum(dim=-1)
        return for_table, None, for_weights


class _Rows(torch.autograd.Function):
    """table[index] with the same gradient as above."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(table, index)
        return table.index_select(0, index)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        table, index = ctx.saved_tensors
        return _spread(gradient, index, None, table), None


def _spread(gradient: Tensor, index: Tensor, weights: Tensor | None, table: Tensor) -> Tensor:
    """Return the gradient of the table: each row's share of the outputs it went into."""
    flat = index.reshape(-1)
    if gradient.device.type == "cpu":  # counting with weights is twice as fast there, and always adds in one order
        columns = []
        for column in gradient.unbind(dim=1):
            share = column if weights is None else weights * column[:, None]
            columns.append(torch.bincount(flat, share.reshape(-1), minlength=len(table)))
        return torch.stack(columns, dim=1).to(table.dtype)
    shares = gradient if weights is None else (weights[..., None] * gradient[:, None]).reshape(len(flat), -1)
    return torch.zeros_like(table).index_add_(0, flat, shares)


def weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return [N, F] weighted sums of rows of `table` [T, F]; `index` [N, K] in [0, T), `weights` [N, K].

    Differentiable once in `table` and in `weights`. Limits: no second derivatives (encodings give their derivative by
    the point explicitly, so that a loss on it needs only the first).
    """
    return _WeightedRows.apply(table, index, weights)  # type: ignore[no-any-return,no-untyped-call]


def trilinear(table: Tensor, index: Tensor, fraction: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return values [N, F] in cells, and their derivatives by the three fractions, [N, F] each.

    index: [8, N] rows of the corners, the last axis varying fastest. fraction: [3, N] place in the cell, in [0, 1].
    Every row is fetched once for all four results. Differentiable once in `table`.
    """
    rows = _Rows.apply(table, index.reshape(-1))  # type: ignore[no-untyped-call]
    corners = rows.view(2, 2, 2, -1)  # last axis [N * F]: long runs are several times faster than rows of F numbers
    x, y, z = (part.repeat_interleave(table.shape[1]) for part in fraction)
    # Unbound, not indexed: the gradient of every index would be a block of zeros with one slice filled in.
    low, high = corners.unbind(dim=2)
    by_z = high - low
    (near, far), (by_z_near, by_z_far) = torch.addcmul(low, z, by_z).unbind(dim=1), by_z.unbind(dim=1)
    by_y = far - near
    (left, right), (by_y_left, by_y_right) = torch.addcmul(near, y, by_y).unbind(), by_y.unbind()
    by_z_left, by_z_right = torch.lerp(by_z_near, by_z_far, y).unbind()
    by_x = right - left
    slopes = by_x, torch.lerp(by_y_left, by_y_right, x), torch.lerp(by_z_left, by_z_right, x)
    shape = (-1, table.shape[1])
    return torch.addcmul(left, x, by_x).view(shape), [slope.view(shape) for slope in slopes]
