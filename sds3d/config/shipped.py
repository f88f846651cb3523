"""Where the files that ship with the program are: recipes, overlays, the bundled prior."""

from __future__ import annotations

from pathlib import Path

from sds3d.errors import AssetError

_PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = (_PACKAGE.parent, _PACKAGE / "data")
"""The repository, and the place inside an installed wheel."""


def shipped(*parts: str) -> Path:
    """Return the path of a shipped file or folder: in the repository, or inside the installed package.

    A path that exists in neither is returned as it would be in the repository, for the caller's message.
    """
    for root in ROOTS:
        if root.joinpath(*parts).exists():
            return root.joinpath(*parts)
    return ROOTS[0].joinpath(*parts)


def recipe_files() -> dict[str, Path]:
    """Return the shipped recipes: name -> file. Raises: AssetError if there are none (a broken installation)."""
    files = {file.stem: file for file in sorted(shipped("configs").glob("*.yaml"))}
    if not files:
        raise AssetError(
            f"No recipes are installed: '{shipped('configs')}' has no YAML files. Install sds3d again, or run it "
            "from its repository.",
            shipped("configs"),
        )
    return files


def overlay_files() -> dict[str, Path]:
    """Return the shipped overlays: name -> file."""
    return {file.stem: file for file in sorted(shipped("configs", "overlays").glob("*.yaml"))}
