"""Several assets made together: where the files of each go. The first is the asset of the run, as always."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sds3d.config import Recipe
from sds3d.run import RunFolder

if TYPE_CHECKING:
    from renderers.base import Renderer


@dataclass(frozen=True)
class ParticleFolder(RunFolder):
    """The run folder as asset number `number` (from 2) sees it: its files go to a folder of their own."""

    number: int = 1

    @property
    def export(self) -> Path:
        """Folder of this asset."""
        return self.path / "export" / f"particle-{self.number}"


def write_all(renderers: Iterable[Renderer], recipe: Recipe, run: RunFolder, formats: Sequence[str]) -> list[Path]:
    """Write every asset in each of `formats` and return the files, those of the first asset first."""
    from systems.assets import write_assets

    files: list[Path] = []
    for number, renderer in enumerate(renderers, 1):
        folder = run if number == 1 else ParticleFolder(run.path, number)
        files += write_assets(renderer, recipe, folder, formats)
    return files
