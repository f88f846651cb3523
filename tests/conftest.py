"""What holds for all tests: each worker of pytest-xdist has one core, so its libraries get one thread."""

from __future__ import annotations

import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones, those first that may take longest: one that comes last would keep a single worker busy
    while the others wait."""
    items.sort(key=lambda item: (item.get_closest_marker("slow") is None, -_seconds_allowed(item)))


def _seconds_allowed(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker and marker.args else 0.0
