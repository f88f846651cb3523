"""What evaluations look like on paper: columns for a gallery, a table of many runs, a page of one."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sds3d.export.atomic import write_bytes
from sds3d.run import RunFolder, write_json

COLUMNS: dict[str, tuple[str, ...]] = {
    "quality": ("quality", "score"),
    "clip_score": ("clip", "score"),
    "clip_r_precision": ("clip", "r_precision"),
    "judge_score": ("judge", "score"),
    "judge_r_precision": ("judge", "r_precision"),
    "noun_accuracy": ("judge", "noun_accuracy"),
    "color_accuracy": ("judge", "color_accuracy"),
    "silhouette_rank": ("judge", "silhouette_rank"),
    "azimuth_within_45": ("judge", "azimuth_within_45"),
    "false_fronts": ("judge", "false_fronts"),
    "opposite_likeness": ("turning", "opposite_likeness"),
    "saturation": ("colour", "saturation"),
    "psnr": ("reference", "psnr"),
    "ssim": ("reference", "ssim"),
    "lpips": ("reference", "lpips"),
    "watertight": ("mesh", "is_watertight"),
    "components": ("mesh", "components"),
    "flipped_faces": ("mesh", "flipped_faces"),
    "texture_share": ("mesh", "texture_share"),
    "faces": ("mesh", "faces"),
}
"""The columns a gallery can sort by, and where an evaluation has them."""
COSTS = ("size_mb", "seconds")
FILE = "evaluation"
AVERAGED = tuple(name for name in COLUMNS if name not in ("faces",)) + COSTS


def columns_of(result: Mapping[str, Any]) -> dict[str, float | bool]:
    """Return the columns that the evaluation of a run has a value for; the same values at every evaluation."""
    found = {name: result.get(part, {}).get(key) for name, (part, key) in COLUMNS.items()}
    return {name: value for name, value in found.items() if value is not None}


def row_of(result: Mapping[str, Any]) -> dict[str, float | bool]:
    """Return `columns_of` with the cost: megabytes written and seconds spent."""
    row = columns_of(result)
    sizes, seconds = result.get("files", {}), result.get("times", {}).get("seconds")
    row["size_mb"] = round(sum(sizes.values()) / 1e6, 3)
    return row if seconds is None else {**row, "seconds": seconds}


def write_run(run: RunFolder, result: Mapping[str, Any]) -> list[Path]:
    """Write evaluation.json and evaluation.md beside the run's metrics, and the columns into metrics.json."""
    files = [run.path / f"{FILE}.json", run.path / f"{FILE}.md"]
    write_json(files[0], result)
    write_bytes(files[1], page(result).encode())
    run.update_metrics(evaluation=columns_of(result))
    return files


def write_many(folder: Path, results: Mapping[str, Mapping[str, Any]], problems: Mapping[str, str]) -> list[Path]:
    """Write evaluation.json, .md and .csv of all runs of a folder; the keys are the runs' paths below it."""
    rows = {name: row_of(result) for name, result in results.items()}
    data = {"runs": dict(results), "means": means(rows.values()), "problems": dict(problems)}
    files = [folder / f"{FILE}.{ending}" for ending in ("json", "md", "csv")]
    write_json(files[0], data)
    write_bytes(files[1], table_page(results, rows, problems).encode())
    write_bytes(files[2], _csv(results, rows).encode())
    return files


def means(rows: Any) -> dict[str, float]:
    """Return the mean of every column over the rows that have it; shares for yes and no."""
    rows = list(rows)
    found = {name: [float(row[name]) for row in rows if row.get(name) is not None] for name in AVERAGED}
    return {name: sum(values) / len(values) for name, values in found.items() if values}


def page(result: Mapping[str, Any]) -> str:
    """Return the evaluation of one run as Markdown."""
    lines = [f"# {_cell(result['prompt'])}", "", f"Recipe {result['recipe']}, seed {result['seed']}.", ""]
    for part, values in result.items():
        if not isinstance(values, Mapping):
            continue
        if set(values) == {"skipped"}:
            lines += [f"## {part}", "", f"Not measured: {_cell(values['skipped'])}.", ""]
            continue
        rows = [f"| {key} | {_cell(value)} |" for key, value in values.items()]
        lines += [f"## {part}", "", "| | |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def table_page(
    results: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]], problems: Mapping[str, str]
) -> str:
    """Return the evaluation of many runs as Markdown: one row a run, the means below, then what failed."""
    used = [name for name in (*COLUMNS, *COSTS) if any(name in row for row in rows.values())]
    lines = ["# Evaluation", "", f"{len(rows)} runs. What the columns mean: docs/evaluation.md.", ""]
    lines += ["| run | prompt | " + " | ".join(used) + " |", "|---|---|" + "---|" * len(used)]
    for name, row in rows.items():
        cells = [_cell(name), _cell(results[name]["prompt"]), *(_cell(row.get(key)) for key in used)]
        lines.append(f"| {' | '.join(cells)} |")
    average = means(rows.values())
    lines.append("| **mean** | | " + " | ".join(_cell(average.get(key)) for key in used) + " |")
    if problems:
        lines += ["", "## Not evaluated", "", *(f"- {_cell(name)}: {_cell(why)}" for name, why in problems.items())]
    return "\n".join(lines) + "\n"


def _csv(results: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["run", "prompt", "recipe", "seed", *COLUMNS, *COSTS], lineterminator="\n")
    writer.writeheader()
    for name, row in rows.items():
        facts = {key: results[name][key] for key in ("prompt", "recipe", "seed")}
        writer.writerow({"run": name, **facts, **row})
    return text.getvalue()


def _cell(value: Any) -> str:
    """Return a value as a cell of a Markdown table: one line, no bars."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_cell(item)}" for key, item in value.items())
    return " ".join(str(value).split()).replace("|", "\\|")
