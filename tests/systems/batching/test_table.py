"""What a batch says of itself: a table in a terminal, a line an asset elsewhere."""

from __future__ import annotations

import io
import re
import time
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from systems.batching import table
from systems.batching.dispatch import Outcome, Slot
from systems.batching.table import Progress, clock
from systems.batching.worker import Result


def job(prompt: str) -> Any:
    return SimpleNamespace(prompt=prompt, key=prompt)


def outcome(prompt: str, problem: str = "") -> Outcome:
    result = Result(reason="error" if problem else "", problem=problem, seconds=12.34)
    return Outcome(job=job(prompt), result=result, attempts=1)


def shown(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what is printed while one asset is done, one failed, one running and two waiting; three were done before."""
    monkeypatch.setattr(table, "_REFRESH_S", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=is_terminal, width=120, color_system=None)
    slots = {
        0: Slot("busy", time.monotonic() - 65, "host:1", job("a [red] mug")),
        1: Slot("starting", time.monotonic()),
    }
    dispatcher: Any = SimpleNamespace(
        waiting=deque([1, 2]), running=[slots[0]], slots=slots, attempts={"a [red] mug": 2}
    )
    with Progress(console, total=9, before=3, refused=1) as progress:
        progress.tick(dispatcher)
        progress.started -= 100
        progress.ended(outcome("a blue mug"), True)
        progress.ended(outcome("a [bold]bad[/bold] mug", "It broke."), False)
        progress.tick(dispatcher)
        left = progress.left_s(2, 1)
        assert left is not None and 125 <= left < 165  # 50 s an asset, two waiting and half of one
    return text.getvalue()


def test_a_table_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said = shown(True, monkeypatch)
    assert "3 done, 1 running, 2 waiting, 1 failed of 9; time left: soon" in said
    assert re.search(r"4 done, 1 running, 2 waiting, 2 failed of 9; 2:\d\d left", said)
    assert "a [red] mug" in said and "1:05" in said and "host:1" in said and "starting" in said
    assert "'a [bold]bad[/bold] mug' FAILED (It broke.), 12.3 s" in said


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(False, monkeypatch).splitlines()
    assert lines == ["5/9  'a blue mug' done, 12.3 s", "6/9  'a [bold]bad[/bold] mug' FAILED (It broke.), 12.3 s"]


def test_times_are_read_at_a_glance() -> None:
    assert [clock(seconds) for seconds in (0, 59.6, 61, 3600, 7325)] == ["0:00", "1:00", "1:01", "1:00:00", "2:02:05"]
