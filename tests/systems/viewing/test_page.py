"""The page in headless Chromium: the object is seen, buttons do what they say, two browsers, the end of the server.

Browsers draw in software here, so the pages are small and wait long.
"""

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from sds3d.export.splat_files import read_splats
from sds3d.run import RunFolder

pytest.importorskip("viser")
pytest.importorskip("playwright.sync_api")

from systems.viewing.live import LiveView
from systems.viewing.server import is_free

pytestmark = pytest.mark.slow
WAIT_MS = 240_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless browser; skips without one. SDS3D_CHROMIUM may name it."""
    names = (os.environ.get("SDS3D_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if name and (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no browser is installed: chromium or google-chrome is needed (see docs/viewer.md)")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


def visit(browser: Any, address: str, asked: list[str]) -> Any:
    """Open the page in a browser of its own and wait for its buttons; what it asks the network for is added to `asked`."""
    page = browser.new_context(viewport={"width": 640, "height": 300}).new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("button:has-text('Snapshot')", state="attached")
    return page


def press(page: Any, label: str) -> None:
    """Press a button without waiting for pictures to come to rest."""
    page.locator(f"button:has-text('{label}')").first.evaluate("button => button.click()")


def ink(page: Any) -> float:
    """Return the share of the left half of the page that is not white: the asset is there, the panel to the right.

    viser's notice that the browser draws in software would count as well, so it is taken away.
    """
    page.evaluate("document.querySelectorAll('[class*=Notification]').forEach(notice => notice.remove())")
    data = page.screenshot(timeout=WAIT_MS)
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)[:, :300]
    return float((pixels.min(axis=-1) < 235).mean())


def until(holds: Callable[[], bool], seconds: float = 200.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.2)
    return False


def test_a_training_is_watched_paused_pictured_exported_and_resumed_from_a_second_browser(
    chromium: Any, make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    from lightning.pytorch import Callback

    from systems.session import train

    end = threading.Event()

    class End(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            trainer.should_stop = trainer.should_stop or end.is_set()

    system = make_system("training.steps=1000000", "training.preview_every=0")
    run = make_run(system.recipe)
    view = LiveView(run, system.recipe)
    worker = threading.Thread(target=train, args=(system, run, quiet, (End(), view)))
    worker.start()
    try:
        asked: list[str] = []
        first = visit(chromium, view.page.address, asked)
        assert until(lambda: ink(first) > 0.03), "the object is not on the canvas"
        press(first, "Pause")
        first.wait_for_selector("button:has-text('Resume')", state="attached")
        assert until(lambda: view.showing is not None and "paused" in view.page._state.content)
        held = system.steps_done
        press(first, "Snapshot")
        first.locator("button:has-text('Export')").last.evaluate("b => b.click()")
        picture = run.path / "snapshots" / f"step-{held:06d}.png"
        splats = run.path / "snapshots" / f"step-{held:06d}" / "export" / "splats.ply"
        assert until(lambda: picture.is_file() and splats.is_file())
        seen = np.asarray(Image.open(picture))
        assert seen.shape[0] == 512 and (seen.min(axis=-1) < 235).mean() > 0.01
        assert len(read_splats(splats).means) == len(next(iter(system.renderer.parameters())))
        assert system.steps_done == held
        second = visit(chromium, view.page.address, asked)
        press(second, "Resume")
        assert until(lambda: system.steps_done > held + 2)
        first.wait_for_selector("button:has-text('Pause')", state="attached")
        own = (view.page.address, "data:", "blob:")
        assert [url for url in asked if not url.startswith(own)] == []
    finally:
        end.set()
        view.page.set_paused(False)
        worker.join(120)
        view.close()
    assert not worker.is_alive() and is_free(int(view.page.address.rsplit(":", 1)[1]))


def test_view_of_a_finished_run_shows_it_and_dies_with_the_program(
    chromium: Any, make_system: Callable[..., Any], make_run: Callable[..., RunFolder], quiet: Console
) -> None:
    from systems.session import train

    system = make_system()
    run = make_run(system.recipe)
    assert train(system, run, quiet)
    call = f"view_command(Path({str(run.path)!r}), None, False)"  # a port chosen here may be taken by then
    code = f"from pathlib import Path; from systems.viewing.verb import view_command; {call}"
    root = Path(__file__).parents[3]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        assert found
        port = int(found[1])
        page = visit(chromium, found[0], [])
        assert until(lambda: ink(page) > 0.03)
        assert page.locator("text=8 of 8").count() == 1
        page.get_by_label("Show as").first.evaluate("field => field.click()")
        page.wait_for_selector('[role="option"]', state="attached")
        page.locator('[role="option"]', has_text="picture").first.evaluate("option => option.click()")
        assert until(lambda: 0.03 < ink(page) < 0.9), "neither white nor black: the picture is there"
    finally:
        process.send_signal(signal.SIGINT)
        code_of_exit = process.wait(60)
    assert code_of_exit == 0 and is_free(port)
