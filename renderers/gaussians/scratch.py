"""Memory for one call of the CPU rasteriser, used again by the next: fresh pages cost about a fifth of a frame."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LINE = 64
"""Bytes of a cache line; every part of a lease starts on one."""
SPARES = 6
"""Free buffers of one size that are kept for later."""
LARGE = 2**28
"""Bytes from which a buffer goes back to the system at once."""

_free: dict[int, list[NDArray[np.uint8]]] = {}  # by size; single list operations are safe between threads


def lease(sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return a tensor (uint8) over memory of at least the given byte counts, and the address of each part.

    The memory is uninitialised and comes back by itself when the last tensor that shares it is gone: after backward,
    when a graph is dropped, or at once without gradients. Keep the tensor as long as an address is in use.
    """
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // LINE) * LINE
    step = 1 << max(12, (total + LINE).bit_length() - 2)
    rounded = -(-(total + LINE) // step) * step  # a few sizes, so that slightly different scenes share them
    kept = _free.setdefault(rounded, [])
    try:
        buffer = kept.pop()
    except IndexError:
        buffer = np.empty(rounded, np.uint8)
    skipped = -buffer.ctypes.data % LINE
    view = buffer[skipped : skipped + total]
    weakref.finalize(view, _give_back, kept, buffer).atexit = False
    memory = torch.from_numpy(view)
    start = memory.data_ptr()
    return memory, [start + offset for offset in offsets]


def _give_back(kept: list[NDArray[np.uint8]], buffer: NDArray[np.uint8]) -> None:
    if len(kept) < SPARES and buffer.nbytes < LARGE:
        kept.append(buffer)
