"""A20, D6: our own file."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sds3d.errors import AssetError, ShapeError
from sds3d.export.sketch.json import read_json, write_json
from sds3d.export.sketch.sketch import Motion, Sketch


@pytest.mark.parametrize("frames", [0, 6])
@pytest.mark.parametrize("has_weights", [False, True])
def test_everything_comes_back(make_sketch, tmp_path, frames, has_weights):
    sketch = make_sketch(segments=2, frames=frames, has_weights=has_weights, is_loop=False)
    again = read_json(write_json(tmp_path / "a.json", sketch))
    for name in ("points", "half_widths", "opacities", "colours", "weights"):
        if getattr(sketch, name) is not None:
            np.testing.assert_allclose(getattr(again, name), getattr(sketch, name), rtol=1e-5)
    assert (again.weights is None) == (not has_weights) and again.prompt == sketch.prompt
    assert again.frames == sketch.frames == max(frames, 1)
    if frames:
        np.testing.assert_allclose(again.points_at(4), sketch.points_at(4), atol=1e-5)
        assert (again.motion.fps, again.motion.is_loop) == (8.0, False)
    twice = read_json(write_json(tmp_path / "b.json", again))
    assert (twice.points == again.points).all()
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_the_file_is_the_documented_one(make_sketch, tmp_path):
    tree = json.loads(write_json(tmp_path / "a.json", make_sketch()).read_text())
    assert (tree["format"], tree["version"], tree["up"], tree["frames"]) == ("sds3d.sketch", 1, "+Z", 1)
    assert set(tree["strokes"][0]) == {"points", "weights", "half_width", "opacity", "colour"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "its 'format' is not 'sds3d.sketch'"),
        ({"version": 2}, "its version is 2"),
        ({"strokes": []}, "0 strokes"),
        ({"strokes": [{"points": [[0, 0, 0]] * 4}]}, "not complete"),
        ({"strokes": [{"points": [[0, 0]] * 4, "half_width": 1, "opacity": 1, "colour": [0, 0, 0]}]}, "not complete"),
    ],
)
def test_broken_files_are_refused(make_sketch, tmp_path, change, message):
    path = write_json(tmp_path / "a.json", make_sketch())
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AssetError, match=message):
        read_json(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(AssetError, match="no readable JSON file"):
        read_json(tmp_path / "missing.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(AssetError, match=r"A 'sds3d\.sketch' file of version 1 is needed"):
        read_json(tmp_path / "a.json")


def test_a_similarity_turns_about_its_centre(make_sketch):
    sketch = make_sketch()
    turn = [2.0, np.sqrt(0.5), 0, 0, np.sqrt(0.5), 0.5, 0, 0]  # 90 degrees about +Z, twice as large, along +X
    motion = Motion(similarity=[[1, 1, 0, 0, 0, 0, 0, 0], turn], centre=[0.1, 0.2, 0.0])
    moved = Sketch(**{**vars(sketch), "motion": motion}).points_at(1)
    x, y, z = np.moveaxis(sketch.points, -1, 0)
    expected = np.stack([-2 * (y - 0.2) + 0.1 + 0.5, 2 * (x - 0.1) + 0.2, 2 * z], axis=-1)
    np.testing.assert_allclose(moved, expected, atol=1e-12)


def test_mistakes_are_explained(make_sketch):
    whole = vars(make_sketch())
    with pytest.raises(AssetError, match="0 strokes, at least 1 is needed"):
        Sketch(points=np.zeros((0, 4, 3)), half_widths=[], opacities=[], colours=np.zeros((0, 3)))
    with pytest.raises(ShapeError, match="half_widths has shape"):
        Sketch(**{**whole, "half_widths": np.ones(3)})
    with pytest.raises(AssetError, match="points of the sketch are not all finite"):
        Sketch(**{**whole, "points": whole["points"] * np.nan})
    with pytest.raises(AssetError, match="A clip has 1 frame, at least 2 are needed"):
        Motion(similarity=[[1, 1, 0, 0, 0, 0, 0, 0]], centre=[0, 0, 0])
