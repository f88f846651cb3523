"""The sixteen-lane value type against numpy, the shuffles, and how compiled kernels are cached."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from renderers.gaussians.kernels import compiling, memory, shuffles, simd  # noqa: E402
from renderers.gaussians.kernels.projection import log2 as log2_lanes  # noqa: E402
from renderers.gaussians.kernels.raster import exp2 as exp2_lanes  # noqa: E402

RNG = np.random.default_rng(0)


def _run(function, values, results):
    """Return `results` vectors that the compiled function(input address, output address) wrote."""
    given = np.ascontiguousarray(values, dtype=np.float32)
    found = np.zeros(16 * results, np.float32)
    numba.njit(function)(given.ctypes.data, found.ctypes.data)
    return found.reshape(results, 16)


def test_arithmetic_is_that_of_numpy():
    def compute(source, target):
        a, b = memory.load(source), memory.load(source + 64)
        memory.store(target, a + b * 2.0 - 1.0 / b)
        memory.store(target + 64, simd.select((a < b) & (b > 0.0), a, simd.minimum(b, -1.0)))
        memory.store(target + 128, simd.select((a >= b) | (b <= -2.0), simd.maximum(a, b), 7.0))
        memory.store(target + 192, simd.square_root(simd.absolute(a)) + simd.round_down(b) * simd.round_up(b))
        memory.store(target + 256, simd.multiply_add(a, b, 1.0) + simd.subtract_product(a, b, 1.0) + simd.ramp())

    a, b = values = RNG.normal(size=(2, 16)).astype(np.float32) * 3
    expected = [
        a + b * 2 - 1 / b,
        np.where((a < b) & (b > 0), a, np.minimum(b, -1)),
        np.where((a >= b) | (b <= -2), np.maximum(a, b), 7),
        np.sqrt(abs(a)) + np.floor(b) * np.ceil(b),
        2 + np.arange(16),
    ]
    assert np.allclose(_run(compute, values, 5), expected, rtol=1e-6, atol=1e-5)


def test_truth_of_some_and_of_all_lanes():
    def compute(source, target):
        a = memory.load(source)
        for i in range(3):
            low, high = simd.any_lane(a < float(i)), simd.all_lanes(a < float(i))
            memory.store(target + 64 * i, (1.0 if low else 0.0) + (2.0 if high else 0.0))

    assert _run(compute, [0.5] * 15 + [1.5], 3)[:, 0].tolist() == [0, 1, 3]


def test_logarithm_and_power():
    def compute(source, target):
        memory.store(target, log2_lanes(memory.load(source)))
        memory.store(target + 64, exp2_lanes(memory.load(source + 64)))

    values = np.stack([np.exp(RNG.uniform(-60, 60, 16)), np.append(RNG.uniform(-8, 0, 14), [-8.0, 0.0])]).astype("f4")
    logarithm, power = _run(compute, values, 2)
    exact = np.log2(values[0].astype("f8"))
    assert np.all(abs(logarithm - exact) <= 2e-7 * np.maximum(1.0, abs(exact)))
    assert np.allclose(power, np.exp2(values[1].astype("f8")), rtol=3e-6, atol=0)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_interleaved_rows(width):
    def compute(source, target):
        values = memory_load(source)
        for k in range(width):
            memory.store(target + 64 * k, values[k])
        shuffles.store_interleaved(target + 64 * width, values)

    def load_2(source):
        return shuffles.load_interleaved(source, 2)

    def load_3(source):
        return shuffles.load_interleaved(source, 3)

    def load_4(source):
        return shuffles.load_interleaved(source, 4)

    memory_load = numba.njit({2: load_2, 3: load_3, 4: load_4}[width])
    rows = np.arange(16 * width, dtype=np.float32).reshape(16, width)
    found = _run(compute, rows, 2 * width)
    assert np.array_equal(found[:width], rows.T) and np.array_equal(found[width:].reshape(16, width), rows)


def test_transposes_and_sums_of_lanes():
    def compute(source, target):
        values = shuffles.load_transposed(source, 128)
        shuffles.store_transposed(target, 64, values)
        shuffles.store_lane_sums(target + 1024, (values[0], values[3], values[7], *values))
        four = shuffles.swap_quarters((values[0], values[1], values[2], values[3]))
        for k in range(4):
            memory.store(target + 1024 + 128 + 64 * k, four[k])

    table = RNG.normal(size=(16, 32)).astype(np.float32)
    found = _run(compute, table, 16 + 2 + 4)
    assert np.array_equal(found[:16], table[:, :16])
    sums = table[:, :16].sum(axis=0)
    assert np.allclose(found[16:18].ravel()[:19], [sums[0], sums[3], sums[7], *sums], atol=1e-5)
    assert (found[16:18].ravel()[19:] == 0).all()
    quarters = table[:, :4].T.reshape(4, 4, 4)
    assert np.array_equal(found[18:].reshape(4, 4, 4), quarters.transpose(1, 0, 2))


def test_masks_of_tiles():
    @numba.njit
    def compute(source, target):
        pair = shuffles.tile_masks(memory.load(source), memory.load(source + 64))
        memory.write_long(target, pair[0])
        memory.write_long(target + 8, pair[1])

    first, last = RNG.integers(-9, 17, (2, 16)).astype(np.float32)
    values, found = np.stack([first, last]), np.zeros(2, np.int64)
    compute(values.ctypes.data, found.ctypes.data)
    expected = [sum(1 << bit for bit in range(8) if a <= bit <= b) for a, b in zip(first, last, strict=True)]
    assert found.view(np.uint8).tolist() == expected


def test_every_source_decides_about_cached_machine_code(tmp_path):
    """The fingerprint is part of the type of a kernel's argument, so numba finds no machine code of other sources."""
    names = {file.name for file in compiling.sources()}
    assert {"simd.py", "memory.py", "shuffles.py", "rows.py", "pixels.py", "raster.py", "constants.py"} <= names
    files = [tmp_path / "kernel.py", tmp_path / "helper.py"]
    for file in files:
        file.write_text("a = 1\n")
    before = compiling.fingerprint(files)
    files[1].write_text("a = 2\n")
    assert compiling.fingerprint(files) != before
    assert f"sources_{compiling.fingerprint(compiling.sources())}" in compiling.job_type("count").names


def test_machine_code_of_another_argument_type_is_not_used(tmp_path):
    """What the fingerprint rests on: one kernel, two record types, two entries in numba's index."""
    source = tmp_path / "kernels_for_test.py"
    source.write_text("def first(jobs):\n    return jobs[0].count + 1\n")
    scope: dict[str, object] = {}
    exec(compile(source.read_text(), str(source), "exec"), scope)
    kinds = [np.dtype([("count", np.int64), (f"sources_{name}", np.int64)]) for name in ("old", "new")]
    hits = []
    for kind in (kinds[0], kinds[0], kinds[1]):
        function = numba.njit(cache=True)(scope["first"])
        assert function(np.zeros(1, kind)) == 1
        hits.append(sum(function.stats.cache_hits.values()))
    assert hits == [0, 1, 0]


def test_a_cache_of_other_sources_counts_as_cold(tmp_path):
    """What counts is what the sources say, not when they were written; only the kernel's own file must not be newer."""
    own, helper = tmp_path / "own.py", tmp_path / "helper.py"
    own.write_text("def kernel(jobs):\n    return 1\n")
    helper.write_text("a = 1\n")
    scope: dict[str, object] = {}
    exec(compile(own.read_text(), str(own), "exec"), scope)

    class Kernel:
        class stats:
            cache_path = str(tmp_path)

        py_func = scope["kernel"]

    files = [own, helper]
    assert not compiling.is_cached(Kernel, files)
    index = tmp_path / "own.kernel-1.py311.nbi"
    index.write_bytes(f"sources_{compiling.fingerprint(files)}".encode())
    assert compiling.is_cached(Kernel, files)
    later = index.stat().st_mtime + 10
    os.utime(helper, (later, later))
    assert compiling.is_cached(Kernel, files)
    helper.write_text("a = 2\n")
    assert not compiling.is_cached(Kernel, files)
    helper.write_text("a = 1\n")
    os.utime(own, (later, later))
    assert not compiling.is_cached(Kernel, files)


def test_two_threads_take_every_number_once():
    kind = np.dtype([("other", np.int64), ("cursor", np.int64)])

    @numba.njit(nogil=True)
    def take(jobs, taken):
        job = jobs[0]
        number, own = memory.fetch_and_add(job, 8, 3), 0
        while number < len(taken):
            for i in range(number, min(number + 3, len(taken))):
                taken[i] += 1
            own += 1
            number = memory.fetch_and_add(job, 8, 3)
        return own

    take(np.zeros(1, kind), np.zeros(1, np.int8))  # compiles
    job, taken = np.array([(5, 0)], kind), np.zeros(200_000, np.int8)
    with ThreadPoolExecutor(2) as pool:
        shares = [pool.submit(take, job, taken) for _ in range(2)]
    assert (taken == 1).all() and sum(share.result() for share in shares) == -(-len(taken) // 3)
    assert job["other"][0] == 5
