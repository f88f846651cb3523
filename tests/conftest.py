"""What holds for all tests: each worker of pytest-xdist has one core, so its libraries get one thread."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones: one that comes last would keep a single worker busy while the others wait."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
