"""Leased memory lies where kernels expect it, and job records hold what was written into them."""

from __future__ import annotations

import numpy as np
import pytest

from renderers.gaussians import scratch


@pytest.mark.parametrize("total", [0, 4, 1000, scratch.SMALL, scratch.SMALL + 1, 5_000_000])
def test_a_lease_is_large_enough_and_starts_on_a_cache_line(total):
    memory, start = scratch.lease(total)
    assert start == memory.data_ptr() and start % scratch.LINE == 0 and 4 * memory.numel() >= total


def test_large_memory_is_used_again():
    memory, start = scratch.lease(scratch.SMALL + 1)
    memory.fill_(7.0)
    del memory
    memory, again = scratch.lease(scratch.SMALL + 2)
    assert again == start and (memory == 7.0).all()
    assert scratch.lease(scratch.SMALL + 2)[1] != start  # in use


def test_parts_begin_on_cache_lines():
    assert scratch.offsets([1, 64, 65, 0, 3]) == [0, 64, 128, 256, 256, 320]


def test_records_are_copies_of_a_template():
    kind = np.dtype([("count", np.int64), ("a", np.int64), ("b", np.int64), ("limit", np.float32), ("c", np.int64)])
    records = scratch.JobRecords(kind)
    template = records.template({"count": 3, "limit": 0.5})
    write = records.writer("a b")
    first, second = bytearray(template), bytearray(template)
    write(first, 2**40, -1)
    assert records.view(first)[0].tolist() == (3, 2**40, -1, 0.5, 0)
    assert records.view(second)[0].tolist() == (3, 0, 0, 0.5, 0)
    with pytest.raises(AssertionError):
        records.writer("a c")
