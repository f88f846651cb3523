"""The page of a run that is not trained here, or of a file: finished, interrupted, or going on in another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sds3d import run as runs
from sds3d.errors import AssetError
from sds3d.export import FORMATS
from sds3d.run import RunFolder
from systems.viewing.page import MESH, SPLATS, Page
from systems.viewing.showing import Showing, formats_of, modes_of, moves
from systems.viewing.words import about

HEIGHT_MOVING, HEIGHT_STILL = 192, 512
"""Of pictures drawn for browsers, pixels: while the camera moves, and when it rests."""
REST_S, LOOK_S = 0.4, 2.0
"""Seconds until a camera rests; seconds between looks at the checkpoint."""
SPLAT_ENDINGS, MESH_ENDINGS = (".spz", ".splat"), (".glb", ".obj", ".stl", ".off")
"""A .ply may hold either."""


@dataclass
class RunView:
    """A run on a page. Follows its last checkpoint, so that a run in another process is seen to grow."""

    run: RunFolder
    page: Page
    showing: Showing
    written: float
    looked: float = 0.0
    sharp: bool = False
    touched: float = 0.0

    def serve(self) -> None:
        """Bring the page up to date; to be called many times a second."""
        now = time.monotonic()
        if now - self.looked > LOOK_S:
            self.looked = now
            self._reload()
        if self.page.is_touched:
            self.touched, self.sharp = now, False
            self.showing.show(HEIGHT_MOVING, is_new=False)
        elif not self.sharp and now - self.touched > REST_S:
            self.sharp = True
            self.showing.show(HEIGHT_STILL, is_new=True)
        self.showing.fulfil()

    def _reload(self) -> None:
        """Show the newest checkpoint if there is one since the last look."""
        try:
            written = self.run.last_checkpoint.stat().st_mtime
        except OSError:
            return
        if written == self.written:
            return
        self.written = written
        self.showing = _showing(self.run, self.page)
        self.sharp = False


def open_run_view(path: Path, port: int | None) -> RunView:
    """Return the view of a run. Raises: AssetError if it has no checkpoint; BackendError without viser; ConfigError."""
    from systems.text_to_3d import trained

    run = runs.open_run(path)
    recipe = run.read_recipe()
    renderer, stage = trained(recipe, run)
    mesh = run.export / FORMATS["glb"].file_name
    kind = stage.renderer.kind
    page = Page(
        port,
        recipe.prompt.text,
        modes=modes_of(kind, mesh.is_file(), moves(renderer)),
        formats=formats_of(kind),
        has_time=moves(renderer),
    )
    return RunView(run, page, _showing(run, page), run.last_checkpoint.stat().st_mtime)


def _showing(run: RunFolder, page: Page) -> Showing:
    """Return the asset of the last checkpoint, and tell the page about it."""
    from systems.checkpoint import read_checkpoint
    from systems.text_to_3d import trained

    renderer, stage = trained(run.read_recipe(), run)
    state, info, metrics = read_checkpoint(run.last_checkpoint), run.read_info(), run.read_metrics()
    page.describe(about(stage))
    judge: dict[str, Any] = {k: v for k, v in (metrics.get("judge") or {}).items() if isinstance(v, float | int)}
    page.tell({"state": info.get("status", "unknown"), "step": f"{state['step']} of {stage.training.steps}", **judge})
    page.show_history(state.get("history", ()))
    mesh = run.export / FORMATS["glb"].file_name
    return Showing(
        page=page,
        run=run,
        renderer=renderer.eval(),
        recipe=stage,
        step=int(state["step"]),
        mesh=mesh if mesh.is_file() else None,
    )


@dataclass
class FileView:
    """A file of splats or of triangles on a page."""

    page: Page
    show: Callable[[], None]

    def serve(self) -> None:
        """Show the file; browsers do the rest."""
        if self.page.shown == "":
            self.show()


def open_file_view(path: Path, port: int | None) -> FileView:
    """Return the view of a splat or mesh file. Raises: AssetError if it cannot be read; BackendError; ConfigError."""
    from sds3d.export.read_mesh import MESH_SUFFIXES, read_mesh
    from sds3d.export.splat_files import read_splats

    ending = path.suffix.lower()
    known = (*SPLAT_ENDINGS, *MESH_SUFFIXES)
    if ending not in known:
        raise AssetError(f"'{path}' cannot be shown: its ending is '{ending}', known are {', '.join(known)}.", path)
    if ending in SPLAT_ENDINGS or (ending == ".ply" and _is_splat_file(path)):
        splats = read_splats(path)
        page = Page(port, path.name, modes=(SPLATS,), can_snapshot=False)
        page.tell({"splats": len(splats.means)})
        return FileView(page, lambda: page.show_splats(splats))
    from sds3d.export.mesh import write_mesh

    mesh = read_mesh(path)
    page = Page(port, path.name, modes=(MESH,), can_snapshot=False)
    page.tell({"vertices": len(mesh.vertices), "triangles": len(mesh.faces)})

    def show() -> None:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            page.show_mesh(write_mesh(Path(folder) / "mesh.glb", mesh).read_bytes())

    return FileView(page, show)


def _is_splat_file(path: Path) -> bool:
    """Return whether a PLY file is one of splats: its header names their scales."""
    with path.open("rb") as file:
        return b"scale_0" in file.read(4096)


def open_view(path: Path, port: int | None) -> RunView | FileView:
    """Return the view of a run folder or of a file."""
    place = path.expanduser()
    if place.is_file() and place.name not in ("run.json", "recipe.yaml"):
        return open_file_view(place, port)
    return open_run_view(place, port)
