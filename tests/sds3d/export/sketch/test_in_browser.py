"""Moving sketches in a browser that is asked to do something: the drawing plays, the page turns and plays."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from sds3d.cameras import turntable
from sds3d.export.sketch import html, svg

pytestmark = pytest.mark.slow
FLAGS = ["--no-sandbox", "--hide-scrollbars", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
HIDDEN = "<style>h1, nav { opacity: 0; pointer-events: none; }</style></head>"

AWAY_FROM_REST = """() => {
  const phase = +document.getElementById("frame").value % 2;  // the sketch of these tests rests at frames 0 and 2
  if (phase < 0.4 || phase > 1.6) return false;
  document.getElementById("play").click();
  return true;
}"""


@pytest.fixture(scope="module")
def browser():
    """A browser that takes commands; skips where playwright or Chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    program = next(
        (found for name in ("chromium", "chromium-browser", "chrome") if (found := shutil.which(name))), None
    )
    if program is None:
        pytest.skip("no browser is installed: chromium is needed (see docs/meshes.md)")
    with api.sync_playwright() as play:
        opened = play.chromium.launch(executable_path=program, args=FLAGS)
        yield opened
        opened.close()


def picture(page):
    return np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB")) / 255.0


def test_an_animated_drawing_shows_each_frame_at_its_time(make_sketch, tmp_path, browser):
    sketch, camera = make_sketch(8, frames=4), turntable(1, 192)
    moving, frames = (
        svg.write_animated_svg(tmp_path / "a.svg", sketch, camera),
        svg.write_frames(tmp_path, sketch, camera),
    )
    page = browser.new_page(viewport={"width": 192, "height": 192})
    page.goto(moving.as_uri())
    seen = []
    for number in range(4):
        page.evaluate(
            f"() => {{ const s = document.documentElement; s.pauseAnimations(); s.setCurrentTime({number / 8}); }}"
        )
        seen.append(picture(page))
    for number, frame in enumerate(frames):
        page.goto(frame.as_uri())
        assert np.abs(picture(page) - seen[number]).mean() < 0.002, number
    assert np.abs(seen[1] - seen[3]).mean() > 0.01  # it moves
    page.close()


def test_an_animated_drawing_moves_by_itself(make_sketch, tmp_path, browser):
    path = svg.write_animated_svg(tmp_path / "a.svg", make_sketch(8, frames=4), turntable(1, 192))
    page = browser.new_page(viewport={"width": 192, "height": 192})
    page.goto(path.as_uri())
    first = picture(page)
    changes = []
    for _ in range(8):  # clips repeat every half second, so one later picture might be the same
        page.wait_for_timeout(70)
        changes.append(np.abs(picture(page) - first).mean())
    assert max(changes) > 0.005
    page.close()


def test_the_page_turns_by_hand_and_plays(make_sketch, tmp_path, browser):
    sketch = make_sketch(8, frames=4)

    def opened(azimuth, plays):
        path = html.write_html(
            tmp_path / f"{azimuth}.html", sketch, azimuth_deg=azimuth, elevation_deg=20.0, plays=plays
        )
        path.write_text(path.read_text().replace("</head>", HIDDEN))
        page = browser.new_page(viewport={"width": 192, "height": 192})
        page.goto(path.as_uri())
        return page

    page = opened(40.0, False)
    before = picture(page)
    page.mouse.move(60, 90)
    page.mouse.down()
    page.mouse.move(110, 90, steps=5)  # 50 pixels, 0.4 degrees each
    page.mouse.up()
    after = picture(page)
    assert np.abs(before - after).mean() > 0.01
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    assert np.abs(picture(page) - before).mean() < 0.002  # 20 degrees there and back
    still = opened(20.0, False)
    assert np.abs(picture(still) - after).mean() < 0.002
    still.close()
    assert page.input_value("#frame") == "0"
    page.evaluate("document.getElementById('play').click()")
    page.wait_for_function(AWAY_FROM_REST, timeout=30_000)  # and pauses there
    held = picture(page)
    assert np.abs(held - before).mean() > 0.005
    page.wait_for_timeout(150)
    assert np.array_equal(picture(page), held)
    page.close()
