"""The index: rows survive a full disk and a kill in the middle of a line; the table is read back by the csv module."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from sds3d.errors import AssetError
from systems.batching.index import Index


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()]


def keys_of(folder: Path) -> list[str]:
    return [row["key"] for row in rows_of(folder)]


def test_a_full_disk_costs_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = Index(tmp_path)
    index.add({"key": "a", "status": "done"})
    with monkeypatch.context() as disk:
        disk.setattr("systems.batching.index.os.fsync", _full)
        disk.setattr("sds3d.export.atomic.os.fsync", _full)
        index.add({"key": "b", "status": "done"})
        assert "No space left" in index.problem
        index.add({"key": "c", "status": "failed"})
        assert "No space left" in index.problem and "'" in index.problem
        with pytest.raises(AssetError, match="free space is needed"):
            index.finish(["a"])
    index.add({"key": "d", "status": "done"})  # there is room again: everything is written
    assert not index.problem
    assert keys_of(tmp_path) == ["a", "b", "c", "d"] or keys_of(tmp_path) == ["a", "d"]


def _full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("cut", [1, 9, 25])
def test_half_a_line_is_left_out_and_mended(tmp_path: Path, cut: int) -> None:
    first = Index(tmp_path)
    for key in "abc":
        first.add({"key": key, "status": "done"})
    text = (tmp_path / "index.jsonl").read_bytes()
    (tmp_path / "index.jsonl").write_bytes(text[:-cut])
    again = Index(tmp_path)
    again.add({"key": "d", "status": "done"})
    assert keys_of(tmp_path) in (["a", "b", "d"], ["a", "b", "c", "d"])  # only the new line's end was cut off, or more
    assert list(again.rows) == keys_of(tmp_path)


def test_the_newest_row_of_a_key_counts_and_the_order_is_that_of_the_prompts(tmp_path: Path) -> None:
    index = Index(tmp_path)
    for key, status in (("b", "failed"), ("a", "done"), ("b", "done"), ("gone", "done")):
        index.add({"key": key, "status": status, "prompt": "=2+2", "scores": {"judge.score": 0.5}, "lines": [1, 2]})
    assert len(rows_of(tmp_path)) == 4
    rows = index.finish(["a", "never", "b"])
    assert [(row["key"], row["status"]) for row in rows] == [("a", "done"), ("b", "done")]
    assert rows_of(tmp_path) == rows == list(Index(tmp_path).rows.values())
    with (tmp_path / "index.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(line["key"], line["lines"], line["judge.score"]) for line in table] == [
        ("a", "1 2", "0.5"),
        ("b", "1 2", "0.5"),
    ]
    assert table[0]["prompt"] == "'=2+2", "a spreadsheet would compute it"
