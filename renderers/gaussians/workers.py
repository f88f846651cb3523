"""A small thread pool for compiled loops. It never spins, so it does not compete with torch's threads while waiting."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch

THREAD_MICROSECONDS = 300.0
"""Work worth a further thread; below, handing it over costs more than it saves."""


def thread_count(microseconds: float) -> int:
    """Return how many threads get work of that estimated length; at most torch's own number of threads."""
    if microseconds < 2 * THREAD_MICROSECONDS:
        return 1
    return min(torch.get_num_threads(), int(microseconds / THREAD_MICROSECONDS))


def run(threads: int, kernel: Callable[..., Any], job: Any, *, is_taken: bool = False) -> list[Any]:
    """Return what kernel(job, first, step) returns for every first below threads and step = threads.

    The last share runs in the calling thread. is_taken: the kernel itself takes work from a counter in its job until
    none is left; a share that has not begun when the caller's ends is then dropped, for a thread that finds a busy
    machine may wake up late.
    """
    if threads <= 1:
        return [kernel(job, 0, 1)]
    pool = _pool(os.getpid(), threads - 1)
    shares = [pool.submit(kernel, job, first, threads) for first in range(threads - 1)]
    results = [kernel(job, threads - 1, threads)]
    return results + [share.result() for share in shares if not (is_taken and share.cancel())]


@lru_cache(maxsize=8)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return this process's pool; a forked child has no threads of its parent's pool, hence the process number."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"splat-{process}")
