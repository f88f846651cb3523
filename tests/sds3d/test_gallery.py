"""The gallery: complete in itself, safe against prompts that look like HTML, filtered and sorted in a real browser."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from sds3d.export.images import write_png
from sds3d.gallery import WIDTH, Card, thumbnail, write_gallery, write_thumbnail
from sds3d.run import RunFolder

HOSTILE = "<script>document.title='broken'</script> \"quoted\" & 'more' 😀 </article>"


def jpeg(colour: tuple[int, int, int]) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (WIDTH, 200), colour).save(data, "JPEG", quality=95)
    return data.getvalue()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A gallery of four cards; the second leads to a report."""
    (tmp_path / "runs" / "a b").mkdir(parents=True)
    (tmp_path / "runs" / "a b" / "report.html").write_text("<p>the report")
    cards = [
        Card(prompt="a red mug", picture=jpeg((200, 20, 20)), scores={"judge.score": 0.5, "size": 3.0}),
        Card(
            prompt="a blue mug", picture=jpeg((20, 20, 200)), scores={"judge.score": 0.9}, link="runs/a b/report.html"
        ),
        Card(prompt=HOSTILE, picture=jpeg((20, 200, 20)), scores={"judge.score": -1.0}, facts={"seed": "<7>"}),
        Card(prompt="a mug that failed", status="failed", problem="It <b>broke</b>."),
    ]
    return write_gallery(tmp_path / "gallery.html", cards, "My <gallery>")


class Cards(HTMLParser):
    """Collects cards in their order: (heading, is hidden), and all addresses."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cards: list[list[str]] = []
        self.hidden: list[bool] = []
        self.addresses: list[str] = []
        self._is_heading = False
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href") and value]
        if tag == "article":
            self.cards.append([])
            self.hidden.append("hidden" in found)
        self._is_heading = tag == "h2" or (self._is_heading and tag == "span")

    def handle_endtag(self, tag: str) -> None:
        self._is_heading = self._is_heading and tag != "h2"

    def handle_data(self, data: str) -> None:
        if self._is_heading and self.cards:
            self.cards[-1].append(data)

    @property
    def shown(self) -> list[str]:
        return ["".join(parts).strip() for parts, hidden in zip(self.cards, self.hidden, strict=True) if not hidden]


def test_the_page_is_complete_in_itself(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = Cards(text)
    assert found.shown == ["a red mug", "a blue mug", HOSTILE, "failed a mug that failed"]
    outside = [address for address in found.addresses if not address.startswith("data:")]
    assert outside == ["runs/a%20b/report.html"] and (page.parent / unquote(outside[0])).is_file()
    assert not re.search(r"https?://|@import|url\(", text)
    assert found.tags.count("script") == 1 and found.tags.count("img") == 3 and "b" not in found.tags[:5]
    assert "4 assets: 3 done, 1 failed" in text and "My &lt;gallery&gt;" in text and "It &lt;b&gt;broke" in text


def test_thumbnails_come_from_the_sheet_or_the_newest_preview(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert thumbnail(run) is None and write_thumbnail(run) is None
    for step, colour in ((20, 0.0), (40, 1.0)):
        write_png(run.preview(step), np.full((32, 64, 3), colour))
    newest = Image.open(io.BytesIO(thumbnail(run) or b""))
    assert newest.size == (64, 32) and np.asarray(newest).mean() > 250
    write_png(run.export / "contact.png", np.full((300, 2 * WIDTH, 3), 0.5))
    sheet = Image.open(write_thumbnail(run) or "")
    assert sheet.size == (WIDTH, 150) and abs(np.asarray(sheet).mean() - 128) < 2
    (run.export / "contact.png").write_bytes(b"no picture")
    assert thumbnail(run) == (tmp_path / "thumbnail.jpg").read_bytes(), "what is stored is taken as it is"
    (tmp_path / "thumbnail.jpg").unlink()
    assert thumbnail(run) is None, "a broken picture is no picture"


def browse(page: Path, folder: Path, *flags: str) -> str:
    """Open a page from disk in headless Chromium, without any network, and return what the browser printed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program = next((found for name in names if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser is installed: one of {', '.join(names)} is needed (see docs/meshes.md)")
    always = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--force-device-scale-factor=1"]
    offline = ["--proxy-server=127.0.0.1:9", "--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking"]
    command = [program, *always, *offline, f"--user-data-dir={folder / 'profile'}", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=200).stdout


@pytest.mark.slow
def test_a_browser_without_network_shows_filters_and_sorts(page: Path, tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    browse(page, tmp_path, "--window-size=1000,700", f"--screenshot={picture}")
    seen = np.asarray(Image.open(picture).convert("RGB")).reshape(-1, 3).astype(int)
    for colour in ((200, 20, 20), (20, 20, 200), (20, 200, 20)):
        assert (np.abs(seen - colour).max(axis=1) < 12).sum() > 5_000, "the thumbnail is not on the page"

    # Four uses of the controls, one behind the other; what is shown after each is left in the title.
    use = """
    const shown = () => [...document.querySelectorAll(".card")].filter(c => !c.hidden).map(c => c.dataset.number).join("");
    const set = (name, value, event) => {
      const field = document.getElementById(name);
      field.value = value;
      field.dispatchEvent(new Event(event));
    };
    const said = [document.title, shown()];
    set("sort", '["judge.score", -1]', "change"); said.push(shown());
    set("sort", '["judge.score", 1]', "change"); said.push(shown());
    set("sort", "prompt", "change"); said.push(shown());
    set("filter", "MUG a", "input"); said.push(shown());
    set("status", "done", "change"); said.push(shown());
    set("filter", "no such thing", "input"); said.push(shown() + (document.getElementById("none").hidden ? "" : "none"));
    document.title = said.join("|");
    """
    copy = tmp_path / "used.html"
    copy.write_text(
        page.read_text(encoding="utf-8").replace("</body>", f"<script>{use}</script></body>"), encoding="utf-8"
    )
    dom = browse(copy, tmp_path, "--dump-dom", "--virtual-time-budget=3000")
    title = re.search(r"<title>(.*?)</title>", dom, re.S)
    assert title is not None, dom[:500]
    said = title.group(1).replace("&lt;", "<").replace("&gt;", ">").split("|")
    assert said == ["My <gallery>", "0123", "1023", "2013", "2103", "103", "10", "none"]
