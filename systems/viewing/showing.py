"""An asset on a page: shows it the chosen way and fulfils what browsers ask for. Runs in the thread that owns the asset."""

from __future__ import annotations

import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from renderers.base import Renderer
from renderers.dynamic import DynamicRenderer
from renderers.gaussians.renderer import GaussianRenderer
from sds3d.config import Recipe
from sds3d.config.export import refusal
from sds3d.errors import Sds3dError
from sds3d.export import FORMATS
from sds3d.export.images import write_png
from sds3d.run import RunFolder
from systems.viewing.drawing import picture
from systems.viewing.page import MESH, PICTURE, SPLATS, Page, Wish

WHITE = 1.0
FOLDER = "snapshots"


@dataclass(kw_only=True)
class Showing:
    """The asset `renderer`, made by one stage `recipe`, of `run`, as it is after `step` steps.

    `mesh` is a GLB file to show, if there is one.
    """

    page: Page
    run: RunFolder
    renderer: Renderer
    recipe: Recipe
    step: int
    mesh: Path | None = None
    drawn_in_s: float = 0.0
    """Seconds that the last pictures took."""

    def show(self, height: int, is_new: bool) -> None:
        """Bring every browser up to date; `height` is that of pictures drawn here, pixels."""
        mode = self.page.mode
        if mode == MESH and self.mesh is not None:
            if self.page.shown != MESH:
                self.page.show_mesh(self.mesh.read_bytes())
        elif mode == SPLATS and isinstance(self.renderer, GaussianRenderer):
            if is_new or self.page.shown != SPLATS:
                from systems.assets import splats_of

                self.page.show_splats(splats_of(self.renderer))
        else:
            started = time.monotonic()
            if self.page.show_pictures(self._paint, height, is_new):
                self.drawn_in_s = time.monotonic() - started

    def _paint(self, camera: Any, moment: float | None) -> Any:
        return picture(self.renderer, camera, WHITE, moment)

    def fulfil(self) -> list[Path]:
        """Do what browsers asked for since the last call, say on the page how it went, and return the files written."""
        written: list[Path] = []
        while True:
            try:
                wish = self.page.wishes.get_nowait()
            except queue.Empty:
                return written
            self.page.notice("Working ...")
            try:
                files = self._fulfilled(wish)
            except (Sds3dError, OSError, NotImplementedError) as error:
                self.page.notice(f"Not done: {error}")
                continue
            written += files
            self.page.notice("Wrote " + ", ".join(str(file) for file in files))

    def _fulfilled(self, wish: Wish) -> list[Path]:
        folder = self.run.path / FOLDER
        if wish.kind == "snapshot":
            assert wish.camera is not None
            name = f"step-{self.step:06d}"
            number = len(list(folder.glob(f"{name}*.png"))) if folder.is_dir() else 0
            path = folder / (f"{name}-{number + 1}.png" if number else f"{name}.png")
            folder.mkdir(parents=True, exist_ok=True)
            return [write_png(path, picture(self.renderer, wish.camera, WHITE, self.page.time))]
        from systems.assets import write_assets

        place = RunFolder(folder / f"step-{self.step:06d}")  # not export/: that is for the finished asset
        return write_assets(self.renderer, self.recipe, place, (wish.format,))


def modes_of(kind: str, has_mesh: bool = False, is_moving: bool = False) -> tuple[str, ...]:
    """Return the ways to show an asset of a kind of renderer, the best first. What moves is drawn here."""
    splats = (SPLATS,) if kind == "gaussians" and not is_moving else ()
    mesh = (MESH,) if has_mesh else ()
    return (PICTURE, *mesh) if is_moving else (*splats, *mesh, PICTURE)


def formats_of(kind: str) -> tuple[str, ...]:
    """Return what an asset of a kind of renderer can be exported as."""
    return tuple(name for name in FORMATS if not refusal((name,), kind))


def moves(renderer: Renderer) -> bool:
    """Return whether the asset has a time."""
    return isinstance(renderer, DynamicRenderer)
