"""Rows of the index, made from what became of a job."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import Any

from sds3d.run import RunFolder
from systems.batching.dispatch import Outcome
from systems.batching.folder import BatchFolder
from systems.batching.index import Row
from systems.batching.jobs import Job, Refused

_SHOWN = 2000


def outcome_row(outcome: Outcome, folder: BatchFolder) -> Row:
    """Return the row of a job that was carried out."""
    result, ended = outcome.result, datetime.now(timezone.utc)
    run = folder.run(outcome.job.name)
    return _row(
        outcome.job,
        status="failed" if result.reason else "done",
        problem=result.problem,
        reason=result.reason,
        attempts=outcome.attempts,
        seconds=result.seconds,
        cpu_s=result.cpu_s,
        memory_gb=result.memory_gb,
        worker=result.worker,
        folder=f"runs/{run.path.name}" if run.path.is_dir() else "",
        files=list(result.files),
        started=(ended - timedelta(seconds=result.seconds)).isoformat(timespec="seconds"),
        ended=ended.isoformat(timespec="seconds"),
        scores=result.scores,
    )


def adopted_row(job: Job, run: RunFolder, scores: dict[str, float]) -> Row:
    """Return the row of an asset that was finished although nobody wrote it down."""
    info = run.read_info()
    return _row(
        job,
        status="done",
        seconds=float(info.get("seconds", 0.0)),
        folder=f"runs/{run.path.name}",
        files=[os.path.relpath(file, run.path) for file in info.get("files", ())],
        started=info.get("created", ""),
        ended=info.get("updated", ""),
        scores=scores,
    )


def refused_row(refused: Refused, recipe: str) -> Row:
    """Return the row of a line nothing can be made of."""
    return {
        "key": refused.key,
        "prompt": refused.text.encode("utf-8", "replace").decode()[:_SHOWN],
        "seed": None,
        "recipe": recipe,
        "status": "failed",
        "problem": refused.problem,
        "reason": "input",
        "lines": [refused.line],
    }


def _row(job: Job, **values: Any) -> Row:
    about = {"key": job.key, "prompt": job.recipe.prompt.text, "seed": job.recipe.seed, "recipe": job.recipe.name}
    return {**about, "problem": "", "reason": "", "lines": list(job.lines), **values}
