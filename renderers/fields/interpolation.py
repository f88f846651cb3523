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
            rows = table.index_select(0, index.reshape(-1)).view(*index.shape, -1)
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


def trilinear(table: Tensor, index: Tensor, fraction: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Return values [N, F] in cells, and their derivatives by the three fractions, [N, F] each.

    index: [N, 8] rows of the corners, the last axis varying fastest. fraction: [N, 3] place in the cell, in [0, 1].
    Every row is fetched once for all four results. Differentiable once in `table`.
    """
    corners = _Rows.apply(table, index.t().reshape(-1)).view(2, 2, 2, len(index), -1)  # type: ignore[no-untyped-call]
    x, y, z = (part[:, None] for part in fraction.unbind(dim=-1))
    by_z = corners[:, :, 1] - corners[:, :, 0]
    plane = torch.addcmul(corners[:, :, 0], z, by_z)
    by_y = plane[:, 1] - plane[:, 0]
    line, by_z = torch.addcmul(plane[:, 0], y, by_y), torch.lerp(by_z[:, 0], by_z[:, 1], y)
    by_x = line[1] - line[0]
    slopes = by_x, torch.lerp(by_y[0], by_y[1], x), torch.lerp(by_z[0], by_z[1], x)
    return torch.addcmul(line[0], x, by_x), slopes
