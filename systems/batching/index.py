"""The index of a batch: one row an asset, appended and flushed as it ends, so that no kill loses it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes

Row = dict[str, Any]
COLUMNS = (
    "key",
    "prompt",
    "seed",
    "recipe",
    "status",
    "problem",
    "reason",
    "attempts",
    "seconds",
    "cpu_s",
    "memory_gb",
    "worker",
    "lines",
    "folder",
    "files",
    "started",
    "ended",
    "scores",
)
"""Keys of a row in their order; the table has a column for each score."""


class Index:
    """The rows of a batch by key, the newest of each, in memory and in index.jsonl.

    A row is appended and flushed to the disk at once. Where that fails (a full disk) the row is kept in memory, `problem`
    says why, and the next row tries to write all of them. A last line cut short by a kill is left out when read.
    """

    def __init__(self, folder: Path) -> None:
        self.file, self.table = folder / "index.jsonl", folder / "index.csv"
        self.rows: dict[str, Row] = {}
        self.problem = ""
        self._is_whole = True
        self._read()

    def _read(self) -> None:
        if not self.file.exists():
            return
        try:
            text = self.file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise AssetError(f"'{self.file}' cannot be read: {error}. Restore it, or take another --out.") from error
        self._is_whole = not text or text.endswith("\n")
        for line in text.splitlines():
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row
            except (ValueError, TypeError, KeyError):
                self._is_whole = False  # half a line: rewritten with the next row

    def add(self, row: Row) -> None:
        """Keep a row, on the disk if that is possible."""
        self.rows[row["key"]] = row
        try:
            if self._is_whole:
                self._append(row)
            else:
                self._rewrite()
            self.problem = ""
        except (OSError, AssetError) as error:
            self._is_whole, self.problem = False, str(error)

    def _append(self, row: Row) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.write(_line(row))
            file.flush()
            os.fsync(file.fileno())

    def _rewrite(self) -> None:
        write_bytes(self.file, b"".join(_line(row) for row in self.rows.values()))
        self._is_whole = True

    def finish(self, order: Iterable[str]) -> list[Row]:
        """Leave one row for each key of `order`, in that order, write index.jsonl and index.csv; return the rows.

        Raises: AssetError if they cannot be written.
        """
        self.rows = {key: self.rows[key] for key in order if key in self.rows}
        self._rewrite()
        rows = list(self.rows.values())
        write_bytes(self.table, _csv(rows).encode("utf-8-sig"))  # with the mark by which spreadsheets know UTF-8
        return rows


def _line(row: Row) -> bytes:
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _csv(rows: list[Row]) -> str:
    scores = list(dict.fromkeys(name for row in rows for name in row.get("scores") or {}))
    plain = [name for name in COLUMNS if name != "scores"]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([*plain, *scores])
    for row in rows:
        found: Mapping[str, Any] = row.get("scores") or {}
        writer.writerow([*(_cell(row.get(name, "")) for name in plain), *(found.get(name, "") for name in scores)])
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a value as a cell; texts that a spreadsheet would take for a formula get an apostrophe before them."""
    if isinstance(value, list):
        return " ".join(str(part) for part in value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return f"'{value}"
    return "" if value is None else value
