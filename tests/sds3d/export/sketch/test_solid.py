"""D3, D5 and the page: tubes, glTF, OBJ, HTML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sds3d.cameras import turntable
from sds3d.export import glb
from sds3d.export.axes import to_gltf_axes
from sds3d.export.sketch import gltf, html, svg, tubes
from sds3d.export.sketch.sketch import Sketch
from sds3d.meshing.topology import open_edges

VALIDATE = """
const validator = require(process.argv[1]), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2]))).then(report => console.log(JSON.stringify(report)));
"""


def straight(radius: float) -> Sketch:
    points = np.linspace(0.0, 1.0, 4)[None, :, None] * np.array([0.0, 0.6, 0.8])
    return Sketch(points=points, half_widths=[radius], opacities=[1.0], colours=np.zeros((1, 3)))


def volume(mesh) -> float:
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(np.float64), 1, 0)
    return float((a * np.cross(b, c)).sum() / 6)


def test_a_thin_tube_has_the_volume_of_a_cylinder():
    octagon = 0.5 * 8 * np.sin(2 * np.pi / 8)
    for radius, bound in ((0.05, 0.07), (0.01, 0.015), (0.002, 0.003)):
        mesh = tubes.tube_mesh(straight(radius))
        assert 0 < volume(mesh) / (octagon * radius**2) - 1 < bound
        assert open_edges(mesh.faces) == 0


def test_tubes_are_closed_and_as_long_as_their_strokes(make_sketch):
    trimesh = pytest.importorskip("trimesh")
    sketch = make_sketch(3, segments=2)
    mesh = tubes.tube_mesh(sketch)
    solid = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert solid.is_watertight and solid.is_winding_consistent
    assert all(part.euler_number == 2 and part.volume > 0 for part in solid.split())
    places = tubes.places_of(sketch, 0, tubes.SAMPLES)
    lengths = np.linalg.norm(np.diff(places, axis=1), axis=2).sum(axis=1)
    expected = float((2 * np.sqrt(2) * sketch.half_widths**2 * lengths).sum())
    assert volume(mesh) == pytest.approx(expected, rel=0.15)


def test_frames_turn_as_little_as_they_can():
    """Along a curve in a plane the normal across the plane must not turn at all; on a helix the twist is known."""
    t = np.linspace(0, 2 * np.pi, 200)
    flat = np.stack([np.cos(t), np.sin(2 * t), 0 * t], axis=-1)[None]
    _, normals = tubes.frames(flat, np.array([[0.0, 0, 1]]))
    np.testing.assert_allclose(normals, np.broadcast_to([0.0, 0, 1], normals.shape), atol=1e-9)
    helix = np.stack([np.cos(t), np.sin(t), 0.3 * t], axis=-1)[None]
    tangents, normals = tubes.frames(helix)
    assert np.abs((tangents * normals).sum(-1)).max() < 1e-9
    for i in range(5, 195):  # the rotation from tangent to tangent moves the normal, nothing else does
        axis = np.cross(tangents[0, i], tangents[0, i + 1])
        turn = Rotation.from_rotvec(axis / np.linalg.norm(axis) * np.arcsin(np.linalg.norm(axis)))
        assert np.linalg.norm(turn.apply(normals[0, i]) - normals[0, i + 1]) < 1e-4


def test_degenerate_strokes_make_finite_tubes():
    sketch = Sketch(points=np.zeros((1, 4, 3)), half_widths=[0.01], opacities=[1], colours=np.zeros((1, 3)))
    assert np.isfinite(tubes.tube_mesh(sketch).vertices).all()


def test_fewer_faces_are_kept_to(make_sketch):
    sketch = make_sketch(10)
    for most in (10_000, 3000, 1000):
        assert len(tubes.tubes_within(sketch, most).faces) <= most
    assert len(tubes.tubes_within(sketch, 1).faces) > 1


def test_obj_is_a_sequence_when_it_moves(make_sketch, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    assert [p.name for p in tubes.write_obj(tmp_path / "a.obj", make_sketch())] == ["a.obj"]
    sketch = make_sketch(2, frames=3)
    paths = tubes.write_obj(tmp_path / "b.obj", sketch)
    assert [p.name for p in paths] == ["b_000.obj", "b_001.obj", "b_002.obj"]
    sizes = [np.ptp(trimesh.load(p, process=False).vertices, axis=0) for p in paths]
    assert np.abs(sizes[0] - sizes[1]).max() > 0.01


def replayed(data: bytes, frame: int) -> np.ndarray:
    """Return the vertices of a file at a key of its animation: morph targets, then the nodes' transformations."""
    tree, binary = glb.decode(data, "a.glb")

    def read(index: int) -> np.ndarray:
        return glb.values_of(tree, binary, index, "a.glb")

    primitive = tree["meshes"][0]["primitives"][0]
    vertices = read(primitive["attributes"]["POSITION"])
    node = dict(tree["nodes"][1])
    targets = [read(t["POSITION"]) for t in primitive.get("targets", ())]
    for animation in tree.get("animations", ()):
        for channel in animation["channels"]:
            sampler = animation["samplers"][channel["sampler"]]
            keys = read(sampler["output"]).reshape(len(read(sampler["input"])), -1)
            node[channel["target"]["path"]] = keys[frame]
    for weight, target in zip(node.get("weights", ()), targets, strict=len(targets) > 0):
        vertices = vertices + weight * target
    root = Rotation.from_quat(tree["nodes"][0]["rotation"])
    turn = Rotation.from_quat(node.get("rotation", [0, 0, 0, 1]))
    moved = turn.apply(vertices * node.get("scale", [1, 1, 1])) + node.get("translation", [0, 0, 0])
    return root.apply(moved)


@pytest.mark.parametrize("style", ["lines", "tubes"])
def test_a_viewer_that_replays_the_animation_sees_every_frame(make_sketch, style):
    sketch = make_sketch(3, frames=7, has_weights=True)
    data = gltf.encode(sketch, style)
    for frame in range(7):
        vertices = replayed(data, frame)
        places = tubes.places_of(sketch, frame, tubes.SAMPLES).reshape(-1, 3)
        expected = to_gltf_axes(places)
        if style == "tubes":  # the middle of each ring
            per_tube = vertices.reshape(3, -1, 3)
            vertices = per_tube[:, 1:-1].reshape(3, -1, 8, 3)[:, 2:-2].mean(axis=2).reshape(-1, 3)
        assert np.abs(vertices - expected).max() < 2e-6
    assert np.abs(replayed(data, 7) - replayed(data, 0)).max() < 1e-6  # the loop closes


def test_long_clips_are_kept_as_few_shapes():
    rng = np.random.default_rng(0)
    basis = rng.normal(size=(3, 90))
    moves = np.stack([np.sin(np.arange(80) / 9), np.arange(80) / 80, (np.arange(80) / 80) ** 2], axis=1) @ basis
    targets, weights = gltf.morph_targets(moves)
    assert len(targets) <= 3
    assert ((weights @ targets - moves) ** 2).sum() <= 1.1e-4 * (moves**2).sum()
    full, one_hot = gltf.morph_targets(moves[:20])
    assert (one_hot @ full == moves[:20]).all() and len(full) == 19


@pytest.mark.parametrize("style", ["lines", "tubes"])
@pytest.mark.parametrize("frames", [0, 4])
def test_the_file_keeps_to_the_specification(make_sketch, tmp_path, style, frames, node_package):
    path = gltf.write_glb(tmp_path / "a.glb", make_sketch(frames=frames), style)
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the Khronos validator runs in it (see docs/meshes.md)")
    command = [node, "-e", VALIDATE, str(node_package("gltf-validator")), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["issues"]["messages"] == []


def test_colours_and_bounds_are_in_the_file(make_sketch):
    sketch = make_sketch(4)
    tree, binary = glb.decode(gltf.encode(sketch, "lines"), "a.glb")
    position, colour = (tree["accessors"][i] for i in (0, 1))
    vertices = glb.values_of(tree, binary, 0, "a.glb")
    np.testing.assert_allclose(position["min"], vertices.min(axis=0), rtol=1e-6)
    rgba = glb.values_of(tree, binary, 1, "a.glb").reshape(4, -1, 4)
    np.testing.assert_allclose(rgba[:, 0, 3], sketch.opacities, rtol=1e-6)
    assert colour["type"] == "VEC4" and tree["meshes"][0]["primitives"][0]["mode"] == 1
    assert tree["materials"][0]["alphaMode"] == "BLEND"
    np.testing.assert_allclose(tree["meshes"][0]["extras"]["half_width"], sketch.half_widths)


def test_the_page_holds_the_sketch_and_nothing_foreign(make_sketch, tmp_path):
    page = html.write_html(tmp_path / "a.html", make_sketch(frames=3)).read_text()
    data = json.loads(re.search(r'id="sketch">(.*?)</script>', page).group(1))
    assert data["frames"] == 3 and len(data["strokes"]) == 5
    assert "http" not in page and "a &lt;test&gt; &amp; more" in page and "<test>" not in page


@pytest.mark.slow
@pytest.mark.parametrize("frames", [0, 4])
def test_the_page_shows_the_sketch(make_sketch, tmp_path, photograph, frames):
    sketch = make_sketch(12, frames=frames)
    view = {"azimuth_deg": 40.0, "elevation_deg": 20.0, "plays": False}
    page = html.write_html(tmp_path / "a.html", sketch, **view)
    hidden = "<style>h1, nav { display: none !important; }</style></head>"
    page.write_text(page.read_text().replace("</head>", hidden))
    camera = turntable(9, 256)[1:2]
    assert float(camera.azimuth_deg[0]) == 40.0
    picture = svg.write_svg(Path(tmp_path, "a.svg"), sketch, camera)
    first, second = (photograph(path.as_uri(), 256, 256) / 255.0 for path in (page, picture))
    assert np.abs(first - second).mean() < 0.002 < 0.01 < np.abs(first - 1.0).mean()
