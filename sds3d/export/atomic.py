"""Write files so that a reader never sees half of one: a temporary neighbour, fsync, rename."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sds3d.errors import AssetError


@contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, flush it to disk and rename it to `path`.

    The temporary name keeps the suffix of `path` (writers choose the format by it) and starts with a dot. Missing
    parent folders are made. If the block raises, the temporary file is removed and an older `path` stays as it was.

    Raises: AssetError if the folder cannot be made or written, or the block left no file behind.
    Limits: the rename is atomic on one file system only, which holds because both names are in one folder.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem[:100]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise IsADirectoryError(f"'{target}' is a folder")
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        _flush(target.parent)
    except OSError as error:
        raise AssetError(
            f"Cannot write '{target}': {error.strerror or error}. A writable folder with free space is "
            "needed: check the path and its permissions, or give another one.",
            target,
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> Path:
    """Write `data` to `path` atomically and return the path. Raises AssetError as `atomic_path` does."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)
    return Path(path)


def _flush(path: Path) -> None:
    """Ask the operating system to put a file, or a folder's list of names, on the disk itself."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder, and its rename is journalled
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
