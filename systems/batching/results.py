"""What a finished run says: whether it is whole, its scores, and the files a gallery needs beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sds3d.errors import Sds3dError
from sds3d.gallery import THUMBNAIL, write_thumbnail
from sds3d.report_page import FILE_NAME, write_report_page
from sds3d.run import RunFolder

_NOT_SCORES = ("seed", "steps", "final", "stages")
"""Parts of metrics.json that tell of the training, not of the asset."""
_SETTINGS = ("views",)


def is_whole(run: RunFolder) -> bool:
    """Return whether the run says that it is done and all its files are there, not empty."""
    try:
        info = run.read_info() if run.info_file.is_file() else {}
    except Sds3dError:
        return False
    if info.get("status") != "done" or not info.get("files"):
        return False
    files = [run.export / Path(name).name if not Path(name).exists() else Path(name) for name in info["files"]]
    return all(file.is_file() and file.stat().st_size > 0 for file in files)


def finish(run: RunFolder) -> None:
    """Write the report and the thumbnail of a finished run, unless they are there."""
    if not (run.path / FILE_NAME).is_file():
        write_report_page(run)
    if not (run.path / THUMBNAIL).is_file():
        write_thumbnail(run)


def scores_of(run: RunFolder) -> dict[str, float]:
    """Return the numbers of metrics.json that say how good the asset is, by dotted name, e.g. judge.noun_accuracy.

    They are all numbers but those about the training; truth values count as 0 and 1. What an evaluation has measured again
    is left out of what the run said of itself.
    """
    try:
        metrics = run.read_metrics()
    except (Sds3dError, json.JSONDecodeError):
        return {}
    found = {name: value for name, value in metrics.items() if name not in _NOT_SCORES}
    scores = dict(_numbers(found))
    return {
        name: value
        for name, value in scores.items()
        if not (name.startswith("judge.") and f"evaluation.{name.removeprefix('judge.')}" in scores)
    }


def _numbers(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{above}{name}.")
        elif isinstance(value, int | float) and name not in _SETTINGS:
            yield f"{above}{name}", int(value) if isinstance(value, bool) else value
