"""`view` without a browser: what is opened, what is refused, and that a run going on elsewhere is followed."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sds3d.errors import AssetError
from sds3d.run import RunFolder

pytest.importorskip("viser")

from sds3d.export.splat_files import write_splats
from systems.assets import splats_of
from systems.session import train
from systems.viewing.finished import FileView, RunView, open_view
from systems.viewing.page import MESH, PICTURE, SPLATS, Page
from systems.viewing.verb import view_command


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Any]]:
    views = []

    def open_it(path: Path) -> Any:
        views.append(open_view(path, None))
        return views[-1]

    yield open_it
    for view in views:
        view.page.close()


def test_a_run_is_shown_and_followed(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console, opened: Callable[[Path], Any]
) -> None:
    system = make_system("training.steps=2")
    run = make_run(system.recipe)
    assert train(system, run, quiet)
    view = opened(run.path)
    assert isinstance(view, RunView) and view.page.mode == SPLATS
    view.serve()
    assert view.page.shown == SPLATS and view.showing.step == 2 and "2 of 2" in view.page._state.content
    longer = make_system("training.steps=3")
    assert train(longer, run, quiet)
    os.utime(run.last_checkpoint, ns=(1, 1))  # whatever the clock's resolution is
    view.looked = -1e9
    view.serve()
    assert view.showing.step == 3


def test_files_of_splats_and_triangles(
    make_system: Callable[..., Any], tmp_path: Path, opened: Callable[[Path], Any]
) -> None:
    import trimesh

    splats = write_splats(tmp_path / "some.ply", splats_of(make_system().renderer))
    view = opened(splats)
    view.serve()
    assert isinstance(view, FileView) and view.page.shown == SPLATS and "| splats | 60 |" in view.page._state.content
    for name in ("ball.glb", "ball.ply"):
        trimesh.creation.icosphere(1).export(tmp_path / name)
        view = opened(tmp_path / name)
        view.serve()
        assert view.page.shown == MESH and "| triangles | 80 |" in view.page._state.content


def test_splats_are_not_turned_like_the_mesh_before_them(make_system: Callable[..., Any]) -> None:
    import trimesh

    page = Page(None, "x", modes=(SPLATS, MESH))
    try:
        page.show_mesh(trimesh.creation.icosphere(1).export(file_type="glb"))
        page.show_splats(splats_of(make_system().renderer))
        splats = page._splats
        assert splats is not None and page.shown == SPLATS
        assert splats.name == "/splats" and tuple(splats.wxyz) == (1.0, 0.0, 0.0, 0.0)  # a browser keeps turns by name
    finally:
        page.close()


def test_what_cannot_be_shown(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"There is no run or file '.*nowhere'"):
        view_command(tmp_path / "nowhere")
    (tmp_path / "a.txt").touch()
    with pytest.raises(AssetError, match=r"its ending is '\.txt', known are \.spz"):
        view_command(tmp_path / "a.txt")
    with pytest.raises(AssetError, match="is not a run folder"):
        view_command(tmp_path)
    (tmp_path / "a.glb").write_bytes(b"no mesh")
    with pytest.raises(AssetError, match="does not begin as binary glTF"):
        view_command(tmp_path / "a.glb")


def test_ways_to_show() -> None:
    from systems.viewing.showing import formats_of, modes_of

    assert modes_of("gaussians", has_mesh=True) == (SPLATS, MESH, PICTURE)
    assert modes_of("nerf") == (PICTURE,) and modes_of("gaussians", is_moving=True) == (PICTURE,)
    assert "ply" in formats_of("gaussians") and "ply" not in formats_of("nerf") and "glb" in formats_of("nerf")
