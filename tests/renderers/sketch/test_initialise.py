"""Where strokes start: at random, on points, along a mesh, from files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers.sketch import initialise
from renderers.sketch.factory import from_mesh, sketch_renderer
from renderers.sketch.mesh_edges import polylines
from renderers.sketch.renderer import SketchRenderer
from renderers.sketch.strokes import Strokes
from sds3d.cameras import turntable
from sds3d.config.sketch import SketchConfig
from sds3d.errors import AssetError
from sds3d.export.mesh import write_mesh
from sds3d.export.sketch.json import write_json
from sds3d.export.sketch.svg import write_svg
from sds3d.meshing.mesh import Mesh

WHITE = torch.ones(1, 3)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cube() -> Mesh:
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box()
    return Mesh(vertices=box.vertices, faces=box.faces, colors=np.zeros((8, 3), np.float32))


def test_a_cube_becomes_its_twelve_edges():
    lines = polylines(cube(), 12)
    assert len(lines) == 12
    for piece in lines:
        assert (torch.sort((piece[0] - piece[-1]).abs()).values - torch.tensor([0.0, 0.0, 1.0])).abs().max() < 1e-5
    points = initialise.along_polylines(lines)
    t = torch.linspace(0, 1, 4)[:, None]
    straight = points[:, :1] + t * (points[:, 3:] - points[:, :1])
    assert (points - straight).abs().max() < 1e-5
    assert len(polylines(cube(), 30)) == 30
    assert len(from_mesh(cube(), SketchConfig(count=5), seeded()).points) == 5


def test_a_flat_mesh_without_lines_is_refused():
    faces = np.array([[0, 1, 1]])
    empty = Mesh(vertices=np.zeros((2, 3)), faces=faces, colors=np.zeros((2, 3)))
    with pytest.raises(AssetError, match="0 sharp edges"):
        polylines(empty, 3)


@pytest.mark.parametrize("segments", [1, 3])
def test_starts_lie_where_they_should(segments):
    points = initialise.in_sphere(200, 0.5, seeded(), segments=segments)
    assert points.shape == (200, 3 * segments + 1, 3)
    lengths = (points[:, 0] - points[:, -1]).norm(dim=1)
    assert float(lengths.min()) > 0.149 and float(lengths.max()) < 0.301
    assert float(((points[:, 0] + points[:, -1]) / 2).norm(dim=1).max()) < 0.5
    cloud = torch.linspace(-1, 1, 400)[:, None] * torch.tensor([0.0, 0.0, 1.0]) + 1e-3 * torch.randn(
        400, 3, generator=seeded()
    )
    along = initialise.on_points(cloud, 8, seeded(), segments=segments)
    direction = torch.nn.functional.normalize(along[:, -1] - along[:, 0], dim=1)
    assert float(direction[:, 2].abs().min()) > 0.98
    spread = torch.cdist(along.mean(1), along.mean(1)) + 9 * torch.eye(8)
    assert float(spread.min()) > 0.1
    assert len(initialise.on_points(cloud[:3], 8, seeded())) == 8


def test_a_drawing_stands_upright_before_the_front_camera():
    flat = torch.tensor([[[0.0, 0], [1, 0], [2, 0], [10, 0]], [[0.0, 20], [1, 20], [2, 20], [10, 20]]])
    points = initialise.lifted(flat, seeded(), size=0.5, jitter=0.0)
    assert float(points[0, :, 2].min()) > 0 > float(points[1, :, 2].max())  # y points down in a drawing
    assert float(points.norm(dim=-1).max()) == pytest.approx(0.5)
    sketch = SketchRenderer(Strokes.of(points[:1], half_width=0.02))
    alpha = sketch.show(turntable(1, 32, elevation_deg=0.0), WHITE).alpha[0, :, :, 0]
    assert float(alpha[:16].detach().sum()) > 100 * float(alpha[16:].detach().sum())


def test_a_run_can_start_from_each_kind_of_file(tmp_path):
    first = sketch_renderer(SketchConfig(count=5, colours=True), seeded())
    path = write_json(tmp_path / "a.json", first.to_sketch())
    again = sketch_renderer(SketchConfig(init=str(path), rational=True), seeded())
    assert torch.allclose(again.points, first.points, atol=1e-5) and again.weights is not None
    assert torch.allclose(again.half_widths, first.half_widths, atol=1e-4)
    small = sketch_renderer(SketchConfig(init=str(path), init_size=0.2), seeded())
    assert float(small.points.detach().norm(dim=-1).max()) == pytest.approx(0.2, rel=1e-4)
    flat = write_svg(tmp_path / "a.svg", first.to_sketch(), turntable(1, 64))
    assert sketch_renderer(SketchConfig(init=str(flat)), seeded()).count >= 5
    mesh = write_mesh(tmp_path / "a.glb", cube())
    assert sketch_renderer(SketchConfig(init=str(mesh), count=12), seeded()).count == 12
    with pytest.raises(AssetError, match="cannot be read as a sketch"):
        sketch_renderer(SketchConfig(init=str(tmp_path / "b.json")), seeded())
