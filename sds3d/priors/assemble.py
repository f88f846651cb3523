"""One pipeline folder out of several: a base model with another autoencoder, or with a motion adapter. No torch.

Nothing is copied: the new folder, in the program's cache, holds links to the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from sds3d.errors import AssetError
from sds3d.export.atomic import write_bytes
from sds3d.priors.folder import INDEX_FILE, METADATA_FILE


def models_cache() -> Path:
    """Return the folder of models the program put together itself; it need not exist and may be deleted."""
    base = os.environ.get("SDS3D_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/sds3d"
    return Path(base).expanduser() / "models"


def assembled(base: Path, parts: Mapping[str, tuple[Path, str]], pipeline: str = "") -> Path:
    """Return a pipeline folder like `base` in which some parts are others; made once, found again later.

    Args:
        base: a diffusers pipeline folder.
        parts: name of the part, e.g. "vae" -> (folder of a single network, its class).
        pipeline: class of the whole; empty: that of `base`.
    Raises: AssetError if the cache cannot be written or `base` has no model_index.json.
    """
    index_file = base / INDEX_FILE
    if not index_file.is_file():
        raise AssetError(
            f"'{base}' has no {INDEX_FILE}, so nothing can be joined to it. Give a whole diffusers folder as prior.base.",
            base,
        )
    index = json.loads(index_file.read_text(encoding="utf-8"))
    key = json.dumps([str(base.resolve()), *sorted((name, str(path.resolve())) for name, (path, _) in parts.items())])
    target = models_cache() / f"joined-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    folders = {folder.name: folder for folder in base.iterdir() if folder.is_dir()}
    folders |= {name: path for name, (path, _) in parts.items()}
    index |= {name: ["diffusers", kind] for name, (_, kind) in parts.items()}
    index["_class_name"] = pipeline or index.get("_class_name")
    for name, folder in folders.items():
        _link(folder.resolve(), target / name)
    if (base / METADATA_FILE).is_file():
        _link((base / METADATA_FILE).resolve(), target / METADATA_FILE)
    write_bytes(target / INDEX_FILE, (json.dumps(index, indent=2) + "\n").encode())
    return target


def _link(source: Path, target: Path) -> None:
    """Let `target` stand for `source`: a link, or a copy where the system has no links."""
    if target.is_symlink() and target.resolve() == source:
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.is_file():
            target.unlink()
        if not target.exists():
            target.symlink_to(source, target_is_directory=source.is_dir())
    except (OSError, NotImplementedError) as error:
        if not target.parent.is_dir():
            raise AssetError(
                f"The cache folder '{target.parent}' cannot be written: {error}. Set SDS3D_CACHE to a writable folder.",
                target.parent,
            ) from error
        copy = shutil.copytree if source.is_dir() else shutil.copy2
        copy(source, target)
