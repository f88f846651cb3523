"""The gallery of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sds3d.errors import AssetError
from sds3d.gallery import Card, thumbnail, write_gallery
from sds3d.report_page import FILE_NAME
from systems.batching.folder import BatchFolder
from systems.batching.index import Index, Row
from systems.batching.results import scores_of


def refresh(path: Path) -> Path:
    """Take over what metrics.json of each run of a batch says now (after `evaluate`); return the new gallery.

    Rewrites index.jsonl, index.csv and gallery.html. Raises: AssetError if `path` is no batch, cannot be written, or if a
        session is working on it.
    """
    folder = BatchFolder(path)
    if not folder.info_file.is_file():
        raise AssetError(
            f"'{path}' is not the folder of a batch: it has no batch.json. Give one that 'batch' made.", path
        )
    with folder.locked():
        index = Index(folder.path)
        return write_page(folder, index.finish([with_scores(folder, row)["key"] for row in index.rows.values()]))


def with_scores(folder: BatchFolder, row: Row) -> Row:
    """Return the row of a finished asset with the scores its metrics.json has now, in place."""
    if row.get("status") == "done" and row.get("folder"):
        row["scores"] = scores_of(folder.run(Path(row["folder"]).name))
    return row


def write_page(folder: BatchFolder, rows: Sequence[Row]) -> Path:
    """Write gallery.html of the rows and return it. Raises: AssetError if it cannot be written."""
    return write_gallery(folder.gallery, [card_of(folder, row) for row in rows], folder.path.name)


def card_of(folder: BatchFolder, row: Row) -> Card:
    """Return the card of a row, with the picture of its run."""
    name = Path(row.get("folder") or "").name
    run = folder.run(name) if name else None
    has_page = run is not None and (run.path / FILE_NAME).is_file()
    facts = {"seed": str(row["seed"])} if row.get("seed") is not None else {}
    facts |= {"recipe": str(row.get("recipe", ""))}
    facts |= {"in": f"{row['seconds']:.0f} s"} if row.get("seconds") else {}
    return Card(
        prompt=row["prompt"],
        status=row["status"],
        link=f"runs/{name}/{FILE_NAME}" if has_page else "",
        picture=thumbnail(run) if run is not None and run.path.is_dir() else None,
        scores=row.get("scores") or {},
        facts=facts,
        problem=row.get("problem", ""),
    )
