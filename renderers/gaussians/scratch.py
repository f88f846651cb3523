"""Memory for one call of the CPU rasteriser, used again by the next (fresh pages cost about a fifth of a frame), and the
records that tell its kernels where it is."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from itertools import repeat
from typing import Any

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


class _Loan(np.ndarray[Any, np.dtype[np.uint8]]):
    """A view of a buffer that puts the buffer back when the last tensor that shares its memory is gone.

    (A finaliser of `weakref` does the same at a multiple of the price, and a training step takes four leases.)
    """

    buffer: NDArray[np.uint8] | None = None
    kept: list[NDArray[np.uint8]]

    def __del__(self, most: int = SPARES, large: int = LARGE) -> None:  # defaults: globals may be gone at exit
        buffer = self.buffer
        if buffer is not None and len(self.kept) < most and buffer.nbytes < large:
            self.kept.append(buffer)


def lease(sizes: Sequence[int]) -> tuple[Tensor, list[int]]:
    """Return a tensor (uint8) over memory of at least the given byte counts, and the address of each part.

    The memory is uninitialised and comes back by itself when the last tensor that shares it is gone: after backward,
    when a graph is dropped, or at once without gradients. Keep the tensor as long as an address is in use.
    """
    offsets, total = [], 0
    for size in sizes:
        offsets.append(total)
        total += -(-size // LINE) * LINE
    step = 1 << max(12, total.bit_length() - 2)
    rounded = max(1, -(-total // step)) * step  # a few sizes, so that slightly different scenes share them
    kept = _free.setdefault(rounded, [])
    try:
        buffer = kept.pop()
    except IndexError:
        buffer = _aligned(rounded)
    loan = buffer.view(_Loan)
    loan.buffer, loan.kept = buffer, kept
    memory = torch.from_numpy(loan)
    start = memory.data_ptr()
    return memory, [start + offset for offset in offsets]


def _aligned(size: int) -> NDArray[np.uint8]:
    """Return fresh bytes that start on a cache line."""
    block = np.empty(size + LINE, np.uint8)
    skipped = -block.ctypes.data % LINE
    return block[skipped : skipped + size]


def job_maker(kind: np.dtype[Any]) -> Callable[[dict[str, int | float]], np.ndarray[Any, Any]]:
    """Return a function that makes one record with the given values and 0 in all other fields.

    (`struct` does in 3 us what numpy takes 14 us for, and there are five records in a training step.)
    """
    names = kind.names or ()
    codes = {np.dtype(np.int64): "q", np.dtype(np.float32): "f"}
    pack = struct.Struct("=" + "".join(codes[kind[name]] for name in names)).pack

    def make(values: dict[str, int | float]) -> np.ndarray[Any, Any]:
        return np.frombuffer(bytearray(pack(*map(values.get, names, repeat(0)))), kind)

    return make
