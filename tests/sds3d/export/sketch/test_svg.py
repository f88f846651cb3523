"""D4: SVG, still and animated, against the exact curve, our rasteriser and a browser."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from renderers.sketch.coverage import draw
from renderers.sketch.projection import Polylines, project
from sds3d import bezier
from sds3d.cameras import Cameras, turntable
from sds3d.errors import AssetError
from sds3d.export.sketch import svg
from sds3d.export.sketch.read_svg import read_svg
from sds3d.export.sketch.sketch import Sketch

SPACE = "{http://www.w3.org/2000/svg}"


def drawn_directly(sketch: Sketch, camera: Cameras, softness: float = 0.5) -> np.ndarray:
    """Return the picture [H, W, 3] of the strokes on white, by the renderer's own rasteriser."""
    weights = None if sketch.weights is None else torch.from_numpy(sketch.weights).log()
    camera = replace(camera, cam_to_world=camera.cam_to_world.double(), intrinsics=camera.intrinsics.double())
    places = bezier.sample(torch.from_numpy(sketch.points), 32, weights)
    lines = project(places, torch.from_numpy(sketch.half_widths), camera)
    return painted(lines, sketch.opacities, sketch.colours, camera, softness)


def painted(lines: Polylines, opacity, colour, camera: Cameras, softness: float) -> np.ndarray:
    ink, tint = torch.from_numpy(opacity), torch.from_numpy(colour)
    out = draw(lines, ink, tint, camera.height, camera.width, softness=softness, backend="culled")
    return (out.rgb + 1.0 - out.alpha)[0].numpy()


def test_the_file_draws_what_the_renderer_draws(make_sketch, tmp_path):
    sketch, camera = make_sketch(12, has_weights=True), turntable(1, 256, elevation_deg=10.0)
    path = svg.write_svg(tmp_path / "a.svg", sketch, camera)
    elements = ElementTree.parse(path).getroot().findall(f"{SPACE}path")
    assert len(elements) == 12
    cubics = [read_one(e.get("d")) for e in elements]
    widths = torch.tensor([float(e.get("stroke-width", "nan")) for e in elements]).double()
    assert widths.isfinite().all()
    parts = []
    for cubic in cubics:
        places = (bezier.bernstein(torch.linspace(0, 1, 129)[:-1].double()) @ torch.from_numpy(cubic)).flatten(0, 1)
        places = torch.cat([places, torch.from_numpy(cubic[-1:, 3])])
        parts.append(places[torch.linspace(0, len(places) - 1, 129).round().long()])
    xy = torch.stack(parts)[None]
    depth = torch.arange(12, 0, -1).double()[None, :, None].expand(1, 12, 129)  # far ones come first in the file
    radius = (widths / 2)[None, :, None].expand(1, 12, 129)
    lines = Polylines(xy, depth, radius, torch.ones(1, 12, 128, dtype=torch.bool))
    colour = np.array([[int(v) / 255 for v in re.findall(r"\d+", e.get("stroke"))] for e in elements])
    opacity = np.array([float(e.get("stroke-opacity")) for e in elements])
    difference = np.abs(painted(lines, opacity, colour, camera, 0.5) - drawn_directly(sketch, camera))
    assert difference.mean() < 0.001


def read_one(data: str) -> np.ndarray:
    numbers = np.array([float(x) for x in re.findall(r"-?\d+\.\d+", data)]).reshape(-1, 2)
    ends = numbers[1:].reshape(-1, 3, 2)
    starts = np.concatenate([numbers[:1], ends[:-1, 2]])
    return np.concatenate([starts[:, None], ends], axis=1)


def test_curves_are_within_a_tenth_of_a_pixel_and_smooth(make_sketch):
    sketch, camera = make_sketch(40, has_weights=True), turntable(1, 256, distance=2.0)
    paths = svg.paths_of(sketch, camera)
    controls = bezier.homogeneous(
        torch.from_numpy(sketch.points), camera.world_to_cam[0].double(), camera.intrinsics[0].double()
    )
    t = torch.linspace(0, 1, 257).double()
    exact = bezier.rational(controls, torch.from_numpy(sketch.weights), t)[0]
    counts = set()
    for cubic, n in zip(paths.cubics, paths.index, strict=True):
        pieces = cubic.shape[1]
        counts.add(pieces)
        at = (t * pieces).clamp(max=pieces - 1e-9)
        basis = bezier.bernstein(at - at.floor())
        value = (basis[:, :, None] * torch.from_numpy(cubic[0])[at.floor().long()]).sum(dim=1)
        assert float((value - exact[n]).norm(dim=-1).max()) < 0.25
        if pieces < svg.MOST_PIECES:
            assert float((value - exact[n]).norm(dim=-1).max()) < 0.11
        before, after = cubic[0, :-1, 3] - cubic[0, :-1, 2], cubic[0, 1:, 1] - cubic[0, 1:, 0]
        np.testing.assert_allclose(before, after, atol=1e-9)
    assert len(counts) > 1  # straight views need fewer pieces


def test_the_whole_width_is_written_once_and_far_strokes_come_first(tmp_path):
    points = np.array([[[x, -0.3, 0], [x, -0.1, 0], [x, 0.1, 0], [x, 0.3, 0]] for x in (0.5, -0.5, 0.0)])
    sketch = Sketch(points=points, half_widths=[0.01] * 3, opacities=[1.0, 0.5, 0.25], colours=np.zeros((3, 3)))
    camera = turntable(1, 256, elevation_deg=0.0)
    root = ElementTree.parse(svg.write_svg(tmp_path / "a.svg", sketch, camera)).getroot()
    elements = root.findall(f"{SPACE}path")
    focal = float(camera.intrinsics[0, 0, 0])
    widths = [float(e.get("stroke-width")) for e in elements]
    np.testing.assert_allclose(widths, [2 * focal * 0.01 / z for z in (3.0, 2.5, 2.0)], rtol=1e-3)
    assert [float(e.get("stroke-opacity")) for e in elements] == [0.5, 0.25, 1.0]
    assert root.get("viewBox") == "0 0 256 256"


def test_a_stroke_of_changing_width_becomes_an_outline(tmp_path):
    points = np.array([[[1.2, -0.1, 0], [0.4, -0.1, 0.1], [-0.4, 0.1, -0.1], [-1.2, 0.4, 0]]])
    sketch = Sketch(points=points, half_widths=[0.01], opacities=[1.0], colours=np.zeros((1, 3)))
    element = ElementTree.parse(svg.write_svg(tmp_path / "a.svg", sketch, turntable(1, 256))).getroot()[-1]
    assert element.get("fill") == "rgb(0,0,0)" and element.get("stroke") == "none"
    assert element.get("d").count("A") == 2 and element.get("d").endswith("Z")


def test_an_animation_has_the_same_commands_in_every_frame(make_sketch, tmp_path):
    sketch, camera = make_sketch(6, frames=5), turntable(1, 128)
    root = ElementTree.parse(svg.write_animated_svg(tmp_path / "a.svg", sketch, camera)).getroot()
    assert root.find(f"{SPACE}metadata").text == root.find(f"{SPACE}title").text == "a <test> & more"
    elements = root.findall(f"{SPACE}path")
    assert len(elements) == 6
    for element in elements:
        move = element.find(f"{SPACE}animate[@attributeName='d']")
        frames = move.get("values").split(";")
        assert len(frames) == 6 and frames[0] == frames[-1] == element.get("d")
        assert len({re.sub(r"[-\d. ]+", "", frame) for frame in frames}) == 1
        assert len(set(frames)) > 2
        assert move.get("dur") == "0.625s" and move.get("repeatCount") == "indefinite"
    still = svg.write_frames(tmp_path, sketch, camera)
    assert [p.name for p in still] == [f"frame_{i:03d}.svg" for i in range(5)]
    assert len(svg.write_views(tmp_path, sketch, turntable(3, 64))) == 3


def test_what_cannot_be_drawn_is_explained(make_sketch, tmp_path):
    sketch = make_sketch(3)
    far = Sketch(**{**vars(sketch), "points": sketch.points + np.array([9.0, 0, 0])})
    with pytest.raises(AssetError, match="None of the 3 strokes is wholly in front of the camera"):
        svg.write_svg(tmp_path / "a.svg", far, turntable(1, 64))
    with pytest.raises(AssetError, match="the sketch has 1 frame, 2 are needed"):
        svg.write_animated_svg(tmp_path / "a.svg", sketch, turntable(1, 64))


def test_drawings_are_read(make_sketch, tmp_path):
    path = tmp_path / "a.svg"
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M1 2c1,0 2-1 3 0 L10 2 h-2v3Z"/></svg>')
    cubics = read_svg(path)
    assert cubics.shape == (5, 4, 2)
    np.testing.assert_allclose(cubics[0], [[1, 2], [2, 2], [3, 1], [4, 2]])
    np.testing.assert_allclose(cubics[:, 3], [[4, 2], [10, 2], [8, 2], [8, 5], [1, 2]])
    sketch = make_sketch(4)
    ours = read_svg(svg.write_svg(tmp_path / "b.svg", sketch, turntable(1, 64)))
    assert len(ours) >= 4
    path.write_text('<svg xmlns="http://www.w3.org/2000/svg"><path d="M1 2 Q 1 2 3 4"/></svg>')
    with pytest.raises(AssetError, match="the command 'Q' with 4 numbers"):
        read_svg(path)
    path.write_text("<svg/>")
    with pytest.raises(AssetError, match="it has 0 curves"):
        read_svg(path)


@pytest.mark.slow
def test_a_browser_shows_the_same_picture(make_sketch, tmp_path, photograph):
    """Browsers measure covered area, a box of one pixel: a Gaussian of its standard deviation is the closest kernel."""
    sketch, camera = make_sketch(24), turntable(1, 256)
    path = svg.write_svg(tmp_path / "a.svg", sketch, camera)
    seen = photograph(path.as_uri(), 256, 256) / 255.0
    assert np.abs(seen - drawn_directly(sketch, camera, 12**-0.5)).mean() < 0.004
    assert np.abs(seen - drawn_directly(sketch, camera)).mean() < 0.008
    assert np.abs(seen - 1.0).mean() > 0.02
