"""Where models of the catalog are on this machine: the cache that all programs of the hub share. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from sds3d.config.shipped import shipped
from sds3d.errors import AssetError
from sds3d.priors.catalog import Entry, catalog

PROGRAM = "python launch.py"


def missing(entry: Entry, needed_by: str = "") -> AssetError:
    """Return the error that a model of the catalog is not on this machine: what it is, and what can stand in.

    Args:
        needed_by: begins the message, e.g. "The recipe 'csd' needs Stable Diffusion".
    """
    stand_ins = [name for name in entry.replacements if place_of(catalog()[name]) is not None]
    instead = f"use what is here instead (prior.path={stand_ins[0]})" if stand_ins else ""
    if not stand_ins and entry.replacements:
        instead = f"fetch a stand-in ({' or '.join(entry.replacements)})"
    gate = f" (accept its licence at {entry.page} first)" if entry.gated else ""
    ways = [f"Run '{PROGRAM} fetch {entry.name}' once{gate}", instead, "try the recipe with the bundled prior: --tiny"]
    return AssetError(
        f"{f'{needed_by}, but the' if needed_by else 'The'} model '{entry.name}' ({entry.hub}, {entry.size_gb:g} GB, "
        f"licence {entry.licence}) is not on this machine. {', or '.join(way for way in ways if way)}.",
        entry.name,
    )


def here() -> list[str]:
    """Return the names of the catalog's models that are on this machine (not checked)."""
    return [name for name, entry in catalog().items() if place_of(entry) is not None]


def place_of(entry: Entry) -> Path | None:
    """Return the folder of a model of the catalog on this machine, from the preferred source on; None if absent."""
    if entry.bundled:
        return shipped("assets", "priors", entry.name)
    for hub in (*entry.sources, *entry.formerly):  # a copy from before it was withdrawn is as good as any
        found = snapshot(hub, entry.revision) or (snapshot(hub) if entry.revision == "main" else None)
        if found is not None and any(found.rglob("*.safetensors")):
            return found
    return None


def hub_cache() -> Path:
    """Return the cache folder of the Hugging Face libraries, by the same variables they read."""
    home = os.environ.get("HF_HOME") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or f"{home}/hub").expanduser()


def snapshot(hub: str, revision: str = "") -> Path | None:
    """Return the newest folder of the hub's model `hub` in the cache, or that of `revision`; None if there is none."""
    repository = hub_cache() / f"models--{hub.replace('/', '--')}"
    reference = repository / "refs" / (revision or "main")
    if reference.is_file():
        found = repository / "snapshots" / reference.read_text(encoding="utf-8").strip()
        if found.is_dir():
            return found
    if revision:
        return found if (found := repository / "snapshots" / revision).is_dir() else None
    folders = [folder for folder in (repository / "snapshots").glob("*") if folder.is_dir()]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)
