"""Mesh files, read back by trimesh: axes by known points, colours by known values."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import trimesh

from sds3d.errors import AssetError
from sds3d.export.mesh import srgb_to_linear, write_mesh
from sds3d.meshing.mesh import Mesh

# A tetrahedron whose corners are the front (+X), the left (+Y), the top (+Z) and the origin.
CORNERS = np.array([[0.9, 0, 0], [0, 0.6, 0], [0, 0, 0.3], [0, 0, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
COLORS = np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 0.25], [0.04, 0.9, 1]], np.float32)
MESH = Mesh(CORNERS, FACES, COLORS)


def load(path: Path) -> trimesh.Trimesh:
    return trimesh.load(path, process=False, force="mesh")


def row(mesh: trimesh.Trimesh, point: list[float]) -> int:
    """Index of the vertex at `point`; fails if there is none."""
    (index,) = np.flatnonzero(np.linalg.norm(mesh.vertices - np.array(point), axis=1) < 1e-5)
    return int(index)


def test_glb_has_front_at_plus_z_top_at_plus_y_and_left_at_plus_x(tmp_path: Path) -> None:
    mesh = load(write_mesh(tmp_path / "m.glb", MESH))
    front, left, top = row(mesh, [0, 0, 0.9]), row(mesh, [0.6, 0, 0]), row(mesh, [0, 0.3, 0])
    assert mesh.is_watertight and mesh.volume == pytest.approx(0.9 * 0.6 * 0.3 / 6, rel=1e-5)  # not turned inside out
    (part,) = trimesh.load(tmp_path / "m.glb", process=False).geometry.values()  # `load` above drops its colours
    linear = part.visual.vertex_attributes["color"][[front, left, top], :3]
    np.testing.assert_allclose(linear, srgb_to_linear(COLORS[:3]), atol=0.003)


def test_glb_chunks_are_aligned_and_say_what_they_hold(tmp_path: Path) -> None:
    data = write_mesh(tmp_path / "m.glb", MESH).read_bytes()
    magic, version, total, size, kind = struct.unpack_from("<4sIII4s", data)
    assert (magic, version, total, kind, size % 4) == (b"glTF", 2, len(data), b"JSON", 0)
    tree = json.loads(data[20 : 20 + size])
    (binary_size, binary_kind) = struct.unpack_from("<I4s", data, 20 + size)
    assert binary_kind == b"BIN\0" and binary_size == tree["buffers"][0]["byteLength"] == total - 28 - size
    assert tree["accessors"][0]["max"] == pytest.approx([0.6, 0.3, 0.9])
    assert all(view["byteOffset"] % 4 == 0 for view in tree["bufferViews"])
    binary = data[28 + size :]
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    start = tree["bufferViews"][attributes["COLOR_0"]]["byteOffset"]
    colors = np.frombuffer(binary, "<f4", 16, start).reshape(4, 4)
    np.testing.assert_allclose(colors[:, :3], srgb_to_linear(COLORS), atol=1e-7)
    start = tree["bufferViews"][attributes["NORMAL"]]["byteOffset"]
    normals = np.frombuffer(binary, "<f4", 12, start).reshape(4, 3)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    assert normals[2] @ [0.0, 0.0, 0.9] == pytest.approx(MESH.normals[2] @ [0.9, 0, 0], abs=1e-6)


def test_srgb_decoding_matches_known_values() -> None:
    np.testing.assert_allclose(srgb_to_linear(np.array([0, 0.04045, 0.5, 1])), [0, 0.0031308, 0.2140411, 1], atol=1e-6)


@pytest.mark.parametrize(
    ("suffix", "front", "top"), [("obj", [0, 0, 0.9], [0, 0.3, 0]), ("ply", [0.9, 0, 0], [0, 0, 0.3])]
)
def test_obj_and_ply_keep_srgb_colours_and_their_axes(tmp_path: Path, suffix: str, front: list, top: list) -> None:
    mesh = load(write_mesh(tmp_path / f"m.{suffix}", MESH))
    assert mesh.is_watertight and mesh.volume > 0
    found = mesh.visual.vertex_colors[[row(mesh, front), row(mesh, top)], :3] / 255.0
    np.testing.assert_allclose(found, COLORS[[0, 2]], atol=0.003)


def test_plyfile_reads_the_mesh_too(tmp_path: Path) -> None:
    from plyfile import PlyData

    file = PlyData.read(write_mesh(tmp_path / "m.ply", MESH))
    assert file["vertex"]["blue"].tolist() == [0, 0, 64, 255]
    np.testing.assert_array_equal(np.stack(file["face"]["vertex_indices"]), FACES)


def test_stl_keeps_the_shape_and_points_outwards(tmp_path: Path) -> None:
    mesh = trimesh.load(write_mesh(tmp_path / "m.stl", MESH), force="mesh")
    assert mesh.is_watertight and mesh.volume == pytest.approx(0.9 * 0.6 * 0.3 / 6, rel=1e-5)
    row(mesh, [0.9, 0, 0])
    data = (tmp_path / "m.stl").read_bytes()
    np.testing.assert_allclose(np.frombuffer(data, "<f4", 3, 84 + 2 * 50), [0, -1, 0], atol=1e-6)


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"the suffix is '.fbx'. Give .glb, .obj, .usdz, .ply, .stl"):
        write_mesh(tmp_path / "m.fbx", MESH)
    with pytest.raises(AssetError, match="has 0 triangles and 0 vertices that are not finite"):
        write_mesh(tmp_path / "m.glb", Mesh(CORNERS, FACES[:0], COLORS))
    with pytest.raises(AssetError, match="has 4 triangles and 1 vertices"):
        write_mesh(tmp_path / "m.glb", Mesh(np.where(CORNERS == 0.9, np.nan, CORNERS), FACES, COLORS))
    assert not list(tmp_path.iterdir())
