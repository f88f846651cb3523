"""How fast the compositing kernels could be on this machine if its vector units never waited."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
from rasteriser_scene import Scene

from renderers.gaussians.rasterise import rasterise

FORWARD_OPERATIONS, BACKWARD_OPERATIONS = 22 + 3, 36 + 2 * 3
"""Vector operations a block of sixteen pixels needs in the inner loops, counted in their source: multiply-adds, sums,
products, comparisons, selections and one division as one each; three channels; loads and stores are free."""


@cache
def _chains() -> Callable[[int, int], None]:
    """Return a compiled loop of twelve independent chains of multiply-adds, which hide the latency."""
    from numba import njit

    from renderers.gaussians.kernels.memory import load, store
    from renderers.gaussians.kernels.simd import multiply_add

    @njit(nogil=True)
    def chains(address: int, rounds: int) -> None:
        x = load(address)
        a, b, c, d, e, f = x, x + 1.0, x + 2.0, x + 3.0, x + 4.0, x + 5.0
        g, h, i, j, k, m = x + 6.0, x + 7.0, x + 8.0, x + 9.0, x + 10.0, x + 11.0
        for _ in range(rounds):
            a, b, c = multiply_add(a, x, x), multiply_add(b, x, x), multiply_add(c, x, x)
            d, e, f = multiply_add(d, x, x), multiply_add(e, x, x), multiply_add(f, x, x)
            g, h, i = multiply_add(g, x, x), multiply_add(h, x, x), multiply_add(i, x, x)
            j, k, m = multiply_add(j, x, x), multiply_add(k, x, x), multiply_add(m, x, x)
        store(address, a + b + c + d + e + f + g + h + i + j + k + m)

    chains(np.full(16, 0.5, np.float32).ctypes.data, 1)
    return chains


@cache
def vector_rate() -> float:
    """Return how many sixteen-lane multiply-adds a second one thread of this machine does, at best."""
    chains, memory, rounds, best = _chains(), np.full(16, 0.5, np.float32), 200_000, float("inf")
    for _ in range(8):
        start = time.thread_time()
        chains(memory.ctypes.data, rounds)
        best = min(best, time.thread_time() - start)
    return 12 * rounds / best


def two_threads(repeats: int) -> float:
    """Return how many times the work of one thread two do at present that share nothing (the best of `repeats`)."""
    chains, rounds = _chains(), 4_000_000
    memory = [np.full(64, 0.5, np.float32) for _ in range(2)]
    best = {1: float("inf"), 2: float("inf")}
    with ThreadPoolExecutor(2) as pool:
        for _ in range(repeats):
            for count in best:
                start = time.perf_counter()
                for share in [pool.submit(chains, each.ctypes.data, rounds) for each in memory[:count]]:
                    share.result()
                best[count] = min(best[count], time.perf_counter() - start)
    return 2 * best[1] / best[2]


def count_blocks(scene: Scene) -> int:
    """Return the number of pairs of a block of sixteen pixels and a Gaussian in the tile lists of a scene."""
    from renderers.gaussians.kernels import layout

    image, _, _ = rasterise(*scene.leaves, scene.viewmats, scene.Ks, scene.size, scene.size, backend="cpu")
    assert image.grad_fn is not None
    job = np.frombuffer(image.grad_fn.drawn.job, layout.JOB)[0]
    tiles, total = int(job["tiles_x"] * job["tiles_y"]), 0
    for camera in range(int(job["cameras"])):
        begins = _int64(int(job["begins"]) + 8 * camera * (tiles + 1), tiles + 1)
        first, last = int(begins[0]), int(begins[-1])
        masks = _int64(int(job["lists"]) + 16 * first, 2 * (last - first))[::2]
        total += int(np.unpackbits(np.ascontiguousarray(masks).view(np.uint8)).sum())
    return total


def _int64(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_int64 * count).from_address(address))


def shares(blocks: int, forward: float, backward: float) -> tuple[float, float]:
    """Return which share of the limit the inner loops reach, in seconds of the two kernels.

    The limit treats every listed block. Finished blocks are skipped, so opaque scenes can come out above it.
    """
    rate = vector_rate()
    return blocks * FORWARD_OPERATIONS / rate / forward, blocks * BACKWARD_OPERATIONS / rate / backward
