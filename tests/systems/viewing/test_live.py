"""The callback without a browser: watching changes nothing, pauses do not count, wishes are fulfilled between steps."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from sds3d.cameras import turntable
from sds3d.export.splat_files import read_splats
from sds3d.run import RunFolder

pytest.importorskip("viser")

from systems.session import train
from systems.viewing.live import LiveView, live_view
from systems.viewing.page import Page, Wish
from systems.viewing.server import is_free


@pytest.fixture
def watched(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, RunFolder, LiveView]]:
    """A system, its run and a page that believes somebody looks."""
    monkeypatch.setattr(Page, "has_visitors", True)
    system = make_system()
    run = make_run(system.recipe)
    view = LiveView(run, system.recipe)
    yield system, run, view
    view.close()


def test_what_is_trained_does_not_depend_on_being_watched(
    watched: tuple[Any, RunFolder, LiveView],
    make_system: Callable[..., Any],
    make_run: Callable[..., RunFolder],
    quiet: Console,
) -> None:
    system, run, view = watched
    shown = []
    view.page.show_pull = shown.append  # type: ignore[method-assign]
    view.page.wishes.put(Wish(kind="snapshot", camera=turntable(1, 24)))
    assert train(system, run, quiet, (view,))
    alone = make_system()
    assert train(alone, make_run(alone.recipe, "alone"), quiet)
    assert all(
        torch.equal(a, b) for a, b in zip(system.renderer.parameters(), alone.renderer.parameters(), strict=True)
    )
    assert system.history == alone.history
    assert (
        shown and shown[0].shape == (32, 32, 3) and len(np.unique(shown[0][16:])) > 2
    )  # two views, and a pull that is not flat
    assert "8 of 8" in view.page._state.content or "of 8" in view.page._state.content


def test_wishes(watched: tuple[Any, RunFolder, LiveView], quiet: Console) -> None:
    system, run, view = watched
    for wish in (Wish(kind="snapshot", camera=turntable(1, 24)),) * 2:
        view.page.wishes.put(wish)
    view.page.wishes.put(Wish(kind="export", format="ply"))
    view.page.wishes.put(Wish(kind="export", format="svg"))  # of strokes: refused, and the training goes on
    assert train(system, run, quiet, (view,))
    names = sorted(
        path.relative_to(run.path / "snapshots").as_posix() for path in (run.path / "snapshots").rglob("*.*")
    )
    assert names == ["step-000001-2.png", "step-000001.png", "step-000001/export/splats.ply"]
    assert Image.open(run.path / "snapshots" / "step-000001.png").size == (24, 24)
    assert len(read_splats(run.path / "snapshots" / names[2]).means) == 60
    assert "Not done" in view.page._notice.content and not run.export.exists()


def test_a_pause_holds_the_step_and_does_not_count_as_time(
    watched: tuple[Any, RunFolder, LiveView], quiet: Console
) -> None:
    system, run, view = watched
    view.page.set_paused(True)
    seen = []

    def release() -> None:
        deadline = time.monotonic() + 60
        while system.steps_done < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        seen.append(system.steps_done)
        time.sleep(0.9)
        seen.append(system.steps_done)
        view.page.set_paused(False)

    helper = threading.Thread(target=release)
    started = time.monotonic()
    helper.start()
    assert train(system, run, quiet, (view,))
    elapsed = time.monotonic() - started
    helper.join()
    assert seen == [1, 1] and system.steps_done == 8
    assert system.seconds < elapsed - 1.0


def test_a_paused_run_can_be_stopped(watched: tuple[Any, RunFolder, LiveView], quiet: Console) -> None:
    from lightning.pytorch import Callback

    system, run, view = watched

    class Stop(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            threading.Timer(0.3, lambda: setattr(trainer, "should_stop", True)).start()

    view.page.set_paused(True)
    assert not train(system, run, quiet, (Stop(), view)) and system.steps_done == 1
    assert run.last_checkpoint.is_file()


def test_the_page_ends_with_the_block_and_says_where_it_is(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    recipe = make_system().recipe
    with (
        pytest.raises(RuntimeError, match="training broke"),
        live_view(make_run(recipe), recipe, None, quiet) as watchers,
    ):
        port = watchers[0].page.server.get_port()
        assert not is_free(port)
        raise RuntimeError("training broke")
    assert is_free(port)
    assert f"Watch it: http://127.0.0.1:{port} (this machine only)" in quiet.file.getvalue()


def test_nothing_is_drawn_while_nobody_looks(
    make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = make_system()
    run = make_run(system.recipe)
    view = LiveView(run, system.recipe)
    monkeypatch.setattr("systems.viewing.showing.Showing.show", lambda *_, **__: pytest.fail("drawn"))
    monkeypatch.setattr(view.page, "show_pull", lambda *_: pytest.fail("drawn"))
    try:
        assert train(system, run, quiet, (view,))
    finally:
        view.close()
