"""Several processes train one generator: who draws what, and one exchange of gradients a step."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn


def world() -> tuple[int, int]:
    """Return (rank, number of processes); (0, 1) without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def batch_number(step: int, part: int, accumulate: int, rank: int, size: int) -> int:
    """Return the number of a batch, counted over all processes: what it draws follows from this number alone.

    So N processes take the very steps of one process that accumulates N times as many batches.
    """
    return (step * accumulate + part) * size + rank


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange; a missing gradient counts as zeros.

    Called once a step, however many backward passes there were: a wrapper that exchanges after each (as
    DistributedDataParallel does) would do K times the work. With one process nothing happens.
    """
    _, size = world()
    if size == 1:
        return
    own = list(parameters)
    parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
    flat = torch.cat([part.reshape(-1) for part in parts])
    distributed.all_reduce(flat)
    flat /= size
    for parameter, values in zip(own, flat.split([part.numel() for part in parts]), strict=True):
        parameter.grad = values.view_as(parameter).clone()
