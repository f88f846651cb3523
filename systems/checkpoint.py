"""Checkpoints: one file that is whole or absent, read without executing anything in it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from sds3d.errors import AssetError
from sds3d.export.atomic import atomic_path

SCHEMA = 1
"""Number of the layout; raised whenever a reader must know the difference."""


def write_checkpoint(path: Path, state: dict[str, Any], recipe_text: str) -> None:
    """Write `state` with the schema number and the recipe (YAML) to `path`: temporary file, fsync, rename."""
    import torch

    with atomic_path(path) as temporary:
        torch.save({"schema": SCHEMA, "recipe": recipe_text, **state}, temporary)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the contents of a checkpoint, tensors on the CPU. Raises: AssetError if it is missing or broken."""
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise AssetError(
            f"The checkpoint '{path}' does not exist. Start the run again with 'generate'.", path
        ) from error
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AssetError(
            f"The checkpoint '{path}' cannot be read: {reason} A whole file written by sds3d is needed: restore it, or "
            "start the run again with 'generate'.",
            path,
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        given = "none" if schema is None else str(schema)
        raise AssetError(
            f"The checkpoint '{path}' has layout number {given}, but this version of sds3d reads {SCHEMA}. Use the "
            "version that wrote it (see run.json), or start the run again.",
            path,
        )
    return dict(content)
