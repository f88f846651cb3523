"""The report page: whole, escaped, without a single outside address, and right about what is there."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from sds3d.errors import AssetError
from sds3d.export.images import write_png
from sds3d.export.mesh import write_mesh
from sds3d.meshing.mesh import Mesh
from sds3d.report_page import write_report_page
from sds3d.run import RunFolder, write_json

TETRAHEDRON = Mesh(
    np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]),
    np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
    np.full((4, 3), 0.3),
)
VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Collects tags, attributes and text, and fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" not in self.open and "style" not in self.open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A finished run with a mesh, pictures, numbers and stages."""
    made = RunFolder(tmp_path / "run")
    picture = np.zeros((4, 4, 3))
    write_mesh(made.export / "mesh.glb", TETRAHEDRON)
    write_png(made.export / "contact.png", picture)
    for step in range(0, 2000, 100):
        write_png(made.preview(step), picture)
    info = {
        "prompt": "a <b>red</b> mug & 'more'",
        "recipe": "magic3d",
        "status": "done",
        "seconds": 312.0,
        "command": ["python launch.py", "generate", "<mug>"],
        "versions": {"torch": "2.13.0"},
        "stages": [{"name": "coarse", "seconds": 200.0}, {"name": "fine", "seconds": 112.0, "note": "resumed"}],
        "citations": ["Lin et al.: Magic3D. CVPR, 2023"],
        "problem": "",
    }
    write_json(made.info_file, info)
    steps = [{"step": 0, "loss": 30.0}, {"step": 10, "loss": 10.0}, {"step": 20, "loss": 20.0}]
    stages = {"coarse": {"steps": steps, "final": {"loss": 20.0, "learning_rate": 0.01}}}
    write_json(made.metrics_file, {"judge": {"noun": "mug", "accuracy": 0.912345678}, "stages": stages})
    made.recipe_file.write_text("prompt:\n  text: a <mug>\n")
    return made


def test_everything_of_the_run_is_on_the_page(run: RunFolder) -> None:
    path = write_report_page(run)
    page = Page(path.read_text(encoding="utf-8"))
    assert path == run.path / "report.html" and not page.all("b")
    for text in (
        "a <b>red</b> mug & 'more'",
        "recipe magic3d · done · 5 min",
        "0.912346",
        "python launch.py generate '<mug>'",
    ):
        assert text in page.text
    for text in ("text: a <mug>", "Lin et al.: Magic3D. CVPR, 2023", "resumed", "2.13.0", "mesh.glb (1 KB)"):
        assert text in page.text
    assert "problem" not in page.text
    steps = [image["alt"] for image in page.all("img") if str(image["alt"]).startswith("step")]
    assert len(steps) == 8 and steps[0] == "step-000000" and steps[-1] == "step-001900"
    assert all(image["alt"] for image in page.all("img"))


def test_a_sketch_is_shown_by_its_own_page(run: RunFolder) -> None:
    own = '<!doctype html><canvas id="picture"></canvas><script>if (1 < 2 && "a") {}</script>'
    (run.export / "sketch.html").write_text(own)
    page = Page(write_report_page(run).read_text(encoding="utf-8"))
    (frame,) = page.all("iframe")
    assert frame["srcdoc"] == own and frame["sandbox"] == "allow-scripts"
    assert not page.all("canvas")  # no second viewer for the tubes


def test_a_mesh_without_normals_gets_no_viewer(run: RunFolder) -> None:
    file = run.export / "mesh.glb"
    file.write_bytes(file.read_bytes().replace(b'"NORMAL"', b'"_ORMAL"'))
    assert not Page(write_report_page(run).read_text(encoding="utf-8")).all("canvas")


def test_numbers_of_stages_are_rows_and_their_losses_a_curve(run: RunFolder) -> None:
    page = Page(write_report_page(run).read_text(encoding="utf-8"))
    assert "stages / coarse / final" in page.text and "loss 20 · learning rate 0.01" in page.text
    assert "loss 30 at step 0, 20 at step 20; between 10 and 30" in page.text
    (curve,) = page.all("polyline")
    places = [tuple(map(float, place.split(","))) for place in str(curve["points"]).split()]
    assert places == [(0.0, 2.0), (150.0, 58.0), (300.0, 30.0)]


def test_the_page_needs_no_network(run: RunFolder) -> None:
    text = write_report_page(run).read_text(encoding="utf-8")
    page = Page(text)
    for _, attributes in page.found:
        for name in ("src", "href"):
            target = str(attributes.get(name, "#"))
            assert target.startswith(("data:", "#", "export/")), target
    assert not re.search(r"https?://|//cdn|@import|url\(", text)
    assert not any("src" in script for script in page.all("script"))


def test_the_mesh_is_inside_as_it_is_in_the_folder(run: RunFolder) -> None:
    text = write_report_page(run).read_text(encoding="utf-8")
    found = re.search(r'<script type="application/octet-stream" id="asset">([^<]*)</script>', text)
    assert found and base64.b64decode(found[1]) == (run.export / "mesh.glb").read_bytes()
    ids = set(re.findall(r'getElementById\("([^"]+)"\)', text))
    assert ids == {"viewer", "viewer-note", "asset", "download"} and all(f'id="{name}"' in text for name in ids)


def test_a_run_with_little_gives_a_page_with_little(tmp_path: Path, run: RunFolder) -> None:
    bare = RunFolder(tmp_path / "bare")
    write_json(bare.info_file, {})
    page = Page(write_report_page(bare).read_text(encoding="utf-8"))
    assert not page.all("canvas") and not page.all("script") and not page.all("img")
    assert len(page.all("h1")) == 1 and not page.all("h2")


def test_a_mesh_too_large_is_linked_only(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sds3d.report_page.LARGEST_MB", 0)
    page = Page(write_report_page(run).read_text(encoding="utf-8"))
    assert not page.all("canvas") and {"href": "export/mesh.glb"} in page.all("a")


def test_films_are_preferred_to_gifs(run: RunFolder) -> None:
    (run.export / "turntable.gif").write_bytes(b"GIF89a")
    assert any("image/gif" in str(image["src"]) for image in Page(write_report_page(run).read_text()).all("img"))
    (run.export / "turntable.mp4").write_bytes(b"mp4")
    page = Page(write_report_page(run).read_text())
    assert len(page.all("video")) == 1 and not any("image/gif" in str(image["src"]) for image in page.all("img"))


def test_a_broken_run_is_said(run: RunFolder) -> None:
    run.info_file.write_text("{")
    with pytest.raises(AssetError, match=r"run.json' cannot be read"):
        write_report_page(run)
