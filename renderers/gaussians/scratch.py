"""Memory for one call of the CPU rasteriser, used again by the next (fresh pages cost about a fifth of a frame), and the
records that tell its kernels where it is."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

LINE = 64
"""Bytes of a cache line; every part of a lease starts on one."""
SPARES = 6
"""Free buffers of one size that are kept for later."""
SMALL, LARGE = 2**19, 2**28
"""Bytes up to which memory is simply allocated (it then comes without fresh pages, and quicker), and from which a buffer
goes back to the system at once."""

_EMPTY = torch.empty(0, dtype=torch.float32, device="cpu")
"""Asked for more of its kind, which takes less time than telling `torch.empty` which."""
_free: dict[int, list[NDArray[np.float32]]] = {}  # by size; single list operations are safe between threads


class _Loan(np.ndarray[Any, np.dtype[np.float32]]):
    """A view of a buffer that puts the buffer back when the last tensor that shares its memory is gone.

    (A finaliser of `weakref` does the same at a multiple of the price, and a training step takes four leases.)
    """

    buffer: NDArray[np.float32] | None = None
    kept: list[NDArray[np.float32]]

    def __del__(self, most: int = SPARES, large: int = LARGE) -> None:  # defaults: globals may be gone at exit
        buffer = self.buffer
        if buffer is not None and len(self.kept) < most and buffer.nbytes < large:
            self.kept.append(buffer)


def lease(total: int) -> tuple[Tensor, int]:
    """Return a tensor (float32) over memory of at least `total` bytes, and its address, the start of a cache line.

    The memory is uninitialised and comes back by itself when the last tensor that shares it is gone: after backward,
    when a graph is dropped, or at once without gradients. Keep the tensor as long as an address is in use.
    """
    if total <= SMALL:
        memory = _EMPTY.new_empty(total // 4 + 1)
        return memory, memory.data_ptr()
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
    return memory, memory.data_ptr()


def offsets(sizes: Iterable[int]) -> list[int]:
    """Return where the parts of a lease begin, each on a cache line, and last what they need in all."""
    return list(accumulate((-(-size // LINE) * LINE for size in sizes), initial=0))


def _aligned(size: int) -> NDArray[np.float32]:
    """Return `size` fresh bytes that start on a cache line."""
    block = np.empty((size + LINE) // 4, np.float32)
    skipped = -block.ctypes.data % LINE // 4
    return block[skipped : skipped + size // 4]


class JobRecords:
    """Makes the records of one type that kernels take: a template has what all calls of a shape share, and each call
    writes its addresses into a copy.

    (`struct` writes all addresses of a stage in the time in which numpy sets one field.)
    """

    def __init__(self, kind: np.dtype[Any]) -> None:
        self._kind = kind
        self._names = kind.names or ()

    def template(self, values: dict[str, int | float]) -> bytes:
        """Return a record with the given values and 0 in all other fields."""
        codes = {np.dtype(np.int64): "q", np.dtype(np.float32): "f"}
        layout = "=" + "".join(codes[self._kind[name]] for name in self._names)
        return struct.pack(layout, *(values.get(name, 0) for name in self._names))

    def writer(self, names: str) -> Callable[..., None]:
        """Return a function that writes integers into the named fields, which follow each other, of a bytearray."""
        wanted = names.split()
        first = self._names.index(wanted[0])
        assert list(self._names[first : first + len(wanted)]) == wanted
        place, write = self._kind.fields[wanted[0]][1], struct.Struct(f"={len(wanted)}q").pack_into  # type: ignore[index]
        return lambda job, *values: write(job, place, *values)

    def view(self, job: bytearray) -> np.ndarray[Any, Any]:
        """Return the record as a kernel takes it; it shares the memory."""
        return np.frombuffer(job, self._kind)
