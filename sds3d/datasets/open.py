"""Open a folder of pictures, whichever of the known layouts it has."""

from __future__ import annotations

from pathlib import Path

from sds3d.datasets.blender import load_blender, load_tensoir
from sds3d.datasets.colmap import load_colmap
from sds3d.datasets.stanford_orb import load_stanford_orb
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError, nearest

LAYOUTS = ("auto", "blender", "tensoir", "colmap", "stanford_orb")


def detect(folder: Path) -> str:
    """Return the layout of `folder`. Raises: AssetError if it has none of the known ones."""
    if not folder.is_dir():
        raise AssetError(f"The folder of pictures '{folder}' does not exist. Give a folder of {_KNOWN}.", folder)
    if (folder / "train_mask").is_dir() or (folder / "transforms_novel.json").is_file():
        return "stanford_orb"
    if list(folder.glob("transforms_*.json")):
        return "blender"
    if list(folder.glob("*_000/metadata.json")) or list(folder.glob("train_*/metadata.json")):
        return "tensoir"
    if any(list(p.glob("images.*")) for p in (folder / "sparse" / "0", folder / "sparse", folder)):
        return "colmap"
    raise AssetError(f"'{folder}' has none of the known layouts. Known are {_KNOWN}: give such a folder.", folder)


def load_views(folder: Path | str, split: str = "train", layout: str = "auto", shrink: int = 1) -> ViewSet:
    """Return one split of a folder of pictures; COLMAP workspaces have no splits (see `ViewSet.split`).

    layout: one of `LAYOUTS`. shrink: divide both sides of the pictures by this whole number.
    Raises: AssetError for unknown layouts and whatever the reader of the layout finds wrong.
    """
    root = Path(folder)
    if layout not in LAYOUTS:
        raise AssetError(f"The layout is '{layout}', which is unknown. Use {nearest(layout, LAYOUTS)}.", root)
    layout = detect(root) if layout == "auto" else layout
    if layout == "colmap":
        return load_colmap(root, shrink=shrink)
    readers = {"blender": load_blender, "tensoir": load_tensoir, "stanford_orb": load_stanford_orb}
    return readers[layout](root, split, shrink=shrink)  # type: ignore[operator]


_KNOWN = "NeRF-synthetic (transforms_train.json), TensoIR (train_000/metadata.json), Stanford-ORB (train_mask) or COLMAP (sparse/0)"
