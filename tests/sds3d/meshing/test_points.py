"""Points from foreign meshes and clouds: evenly over the surface, with the colour that is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export.mesh import write_mesh
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.points import points_on, read_points

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.0]])
TETRAHEDRON = Mesh(CORNERS, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]), np.eye(4)[:, :3] * 0.8)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_points_lie_on_the_mesh_with_its_colours_in_our_frame(tmp_path: Path, suffix: str) -> None:
    points = read_points(write_mesh(tmp_path / f"m{suffix}", TETRAHEDRON), 3000, seed=1)
    assert len(points) == 3000 and points.positions.dtype == points.colors.dtype == np.float32
    x, y, z = points.positions.T.astype(np.float64)
    slanted = x + y / 2 + z / 3  # 1 on the large face
    on_face = np.stack([np.abs(x), np.abs(y), np.abs(z), np.abs(slanted - 1)])
    assert on_face.min(axis=0).max() < 1e-4
    # Faces get points by area: 3, 1.5, 1 and sqrt(3^2 + 1.5^2 + 1^2) = 3.5; four standard errors are 0.035.
    shares = np.bincount(on_face.argmin(axis=0), minlength=4) / 3000
    np.testing.assert_allclose(shares, np.array([3.0, 1.5, 1.0, 3.5]) / 9.0, atol=0.036)
    if suffix == ".stl":
        np.testing.assert_allclose(points.colors, 0.5)
    elif suffix != ".glb":  # linear interpolation of (0.8, 0, 0), (0, 0.8, 0), (0, 0, 0.8), 0 at the corners
        expected = 0.8 * np.stack([1 - slanted, x, y / 2], axis=1)
        np.testing.assert_allclose(points.colors, expected, atol=0.01)
    else:  # interpolated after decoding to sRGB; the bytes of linear light are coarse in the dark
        expected = 0.8 * np.stack([1 - slanted, x, y / 2], axis=1)
        np.testing.assert_allclose(points.colors, expected, atol=0.03)


def test_points_are_even_on_a_triangle(tmp_path: Path) -> None:
    """Moments of a uniform distribution on a right triangle: mean 1/3, variance 1/18, covariance -1/36."""
    trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]]).export(tmp_path / "t.stl")
    xy = read_points(tmp_path / "t.stl", 4000, seed=2).positions[:, :2].astype(np.float64)
    np.testing.assert_allclose(xy.mean(axis=0), 1 / 3, atol=4 * np.sqrt(1 / 18 / 4000))
    np.testing.assert_allclose(np.cov(xy.T), [[1 / 18, -1 / 36], [-1 / 36, 1 / 18]], atol=0.004)


def test_the_seed_decides(tmp_path: Path) -> None:
    path = write_mesh(tmp_path / "m.ply", TETRAHEDRON)
    first, again, other = (read_points(path, 50, seed).positions for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def textured() -> trimesh.Trimesh:
    """A unit square whose four quarters are red, green (top), blue, white (bottom), dimmed by a factor."""
    picture = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8))
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    material = PBRMaterial(baseColorTexture=picture, baseColorFactor=[128, 255, 255, 255])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    square.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return square


def test_textures_and_factors_are_carried(tmp_path: Path) -> None:
    textured().export(tmp_path / "t.glb")
    points = read_points(tmp_path / "t.glb", 400)
    there = points.positions @ np.array(WORLD_TO_GLTF).T  # back in the file's frame, where the square is x, y
    dim = 1.055 * (128 / 255) ** (1 / 2.4) - 0.055
    for right, top, colour in ((0, 1, [dim, 0, 0]), (1, 1, [0, 1, 0]), (0, 0, [0, 0, 1]), (1, 0, [dim, 1, 1])):
        inside = ((there[:, 0] > 0.5) == right) & ((there[:, 1] > 0.5) == top)
        assert inside.sum() > 50
        np.testing.assert_allclose(points.colors[inside], np.broadcast_to(colour, (inside.sum(), 3)), atol=0.004)


def test_plain_materials_and_face_colours_are_carried(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual = trimesh.visual.TextureVisuals(material=PBRMaterial(baseColorFactor=[255, 0, 128, 255]))
    box.export(tmp_path / "b.glb")
    found = read_points(tmp_path / "b.glb", 20).colors
    np.testing.assert_allclose(found, np.tile([1, 0, 0.7363], (20, 1)), atol=0.01)


def test_scenes_keep_the_places_of_their_parts(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for shift in (-2.0, 2.0):
        scene.add_geometry(trimesh.creation.box(), transform=trimesh.transformations.translation_matrix([0, shift, 0]))
    scene.export(tmp_path / "s.glb")
    z = read_points(tmp_path / "s.glb", 400).positions[:, 2]  # up in the file is up here
    assert (np.abs(np.abs(z) - 2.0) <= 0.5001).all() and 0.3 < (z > 0).mean() < 0.7


def test_point_clouds_come_whole_or_as_a_choice(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    places, colors = rng.normal(size=(60, 3)), rng.integers(0, 255, (60, 4), dtype=np.uint8)
    trimesh.PointCloud(places, colors).export(tmp_path / "c.ply")
    whole, some = read_points(tmp_path / "c.ply", 1000), read_points(tmp_path / "c.ply", 10)
    np.testing.assert_allclose(whole.positions, places, atol=1e-6)
    np.testing.assert_allclose(whole.colors, colors[:, :3] / 255, atol=1e-6)
    assert len(some) == 10 and {tuple(p) for p in some.positions} <= {tuple(p) for p in whole.positions}
    trimesh.PointCloud(places).export(tmp_path / "d.ply")
    np.testing.assert_allclose(read_points(tmp_path / "d.ply", 99).colors, 0.5)


def test_points_on_a_mesh_have_its_colours() -> None:
    points = points_on(TETRAHEDRON, 500, seed=3)
    x, y, z = points.positions.T.astype(np.float64)
    share = np.stack([1 - x - y / 2 - z / 3, x, y / 2, z / 3], axis=1)  # barycentric coordinates in the solid
    np.testing.assert_allclose(points.colors, share @ TETRAHEDRON.colors, atol=0.01)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.ply", b"ply\nformat ascii", "it is broken or of another kind"),
        ("a.glb", b"glTF", "it is broken or of another kind"),
        ("a.obj", b"hello", "holds no triangles of any area and no points"),
        ("a.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "holds no triangles of any area"),
        ("a.stl", b"", "broken or of another kind|holds no triangles"),
        ("none.obj", None, "there is no such file. A file of triangles or points is needed"),
    ],
)
def test_broken_files_are_refused_with_the_reason(tmp_path: Path, name: str, data: bytes | None, message: str) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    with pytest.raises(AssetError, match=message):
        read_points(tmp_path / name, 10)
