"""Files of Gaussian splats: one module a format, one function to read and one to write any of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sds3d.errors import AssetError, nearest
from sds3d.export.splat_files import dot_splat, gltf, ply, spz
from sds3d.export.splats import Splats

_READERS: dict[str, Callable[[Path], Splats]] = {
    ".ply": ply.read,
    ".spz": spz.read,
    ".splat": dot_splat.read,
    ".glb": gltf.read,
}
_WRITERS: dict[str, Callable[[Path, Splats], Path]] = {
    ".ply": ply.write,
    ".spz": spz.write,
    ".splat": dot_splat.write,
    ".glb": gltf.write,
}
SPLAT_SUFFIXES = tuple(_READERS)
"""Endings of the files that `read_splats` and `write_splats` know."""


def read_splats(path: Path | str) -> Splats:
    """Return the splats of a file in our world frame, whatever frame its format prescribes.

    The format follows from the ending: .ply (3DGS layout), .spz (Niantic, versions 2 to 4), .splat (32-byte records) or
    .glb (glTF with KHR_gaussian_splatting).

    Raises: AssetError if the ending is unknown, or the file is missing, broken, cut short or of another kind.
    """
    source = Path(path)
    return _READERS[_suffix(source)](source)


def write_splats(path: Path | str, splats: Splats) -> Path:
    """Write `splats` in the format of the ending of `path`, atomically, and return the path.

    What each format loses is written in its module. Raises: AssetError if the ending is unknown, a value is not finite
    or out of the format's range, or the file cannot be written.
    """
    target = Path(path)
    return _WRITERS[_suffix(target)](target, splats)


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in _READERS:
        raise AssetError(
            f"'{path.name}' names no format of splats: its ending is '{suffix}'. Allowed is "
            f"{nearest(suffix, SPLAT_SUFFIXES)}: rename or convert the file.",
            path,
        )
    return suffix
