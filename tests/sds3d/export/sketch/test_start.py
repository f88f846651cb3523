"""The look at a file of strokes before a run begins."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from sds3d.config.gaussians import GaussiansConfig
from sds3d.config.sketch import SketchConfig
from sds3d.errors import AssetError, ConfigError
from sds3d.export.first_look import check_start
from sds3d.export.sketch.json import write_json
from sds3d.export.sketch.start import check_start as check_sketch


def test_good_sketches_pass_and_are_counted(make_sketch, tmp_path):
    path = write_json(tmp_path / "a.json", make_sketch(7))
    assert check_sketch(path, 2.3) == 7
    assert check_start(SketchConfig(init=str(path)), 2.3) == ""
    assert check_start(SketchConfig(), 2.3) == "" and check_start(GaussiansConfig(), 2.3) == ""
    (tmp_path / "d.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M0 0L9 9L0 9Z"/></svg>')
    assert check_sketch(tmp_path / "d.svg", 2.3) == 3


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 9.0), (0.001, 0.0), (20.0, 0.0)])
def test_strokes_that_cameras_cannot_look_at_are_refused_unless_scaled(make_sketch, tmp_path, factor, shift):
    sketch = make_sketch(7)
    path = write_json(tmp_path / "a.json", dataclasses.replace(sketch, points=factor * sketch.points + shift))
    with pytest.raises(ConfigError, match=r"the cameras stand 2.3 away .* Give renderer.init_size=0.8") as caught:
        check_start(SketchConfig(init=str(path)), 2.3)
    assert caught.value.path == "renderer.init_size"
    assert check_sketch(path, 2.3, radius=0.8) == 7


def test_empty_missing_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(AssetError, match="is no readable JSON file"):
        check_start(SketchConfig(init=str(tmp_path / "none.json")), 2.3)
    (tmp_path / "b.json").write_text('{"format": "sds3d.sketch", "version": 1, "strokes": []}')
    with pytest.raises(AssetError, match="0 strokes"):
        check_start(SketchConfig(init=str(tmp_path / "b.json")), 2.3)
    (tmp_path / "c.svg").write_text("<svg/>")
    with pytest.raises(AssetError, match="it has 0 curves"):
        check_start(SketchConfig(init=str(tmp_path / "c.svg")), 2.3)


def test_the_look_needs_no_torch(tmp_path):
    (tmp_path / "c.svg").write_text("<svg/>")
    code = (
        "import sys; from sds3d.config.sketch import SketchConfig; from sds3d.export.first_look import check_start\n"
        f"try: check_start(SketchConfig(init={str(tmp_path / 'c.svg')!r}), 2.3)\n"
        "except Exception as error: print(error)\nprint('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert "0 curves" in out[0] and out[-1] == "False"
