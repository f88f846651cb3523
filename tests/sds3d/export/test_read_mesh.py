"""Meshes of users: what was written comes back, and what cannot be used is refused with the reason."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from sds3d.errors import AssetError
from sds3d.export.axes import linear_to_srgb, to_gltf_axes
from sds3d.export.mesh import write_mesh
from sds3d.export.read_mesh import read_mesh
from sds3d.export.splat_files import write_splats
from sds3d.export.start import read_start_mesh
from sds3d.meshing.bake import sample
from sds3d.meshing.mesh import Mesh


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_textured_meshes_come_back(tmp_path: Path, textured_mug: Mesh, rainbow: Callable, suffix: str) -> None:
    mesh, done = read_start_mesh(write_mesh(tmp_path / f"m.{suffix}", textured_mug))
    assert mesh.is_textured and mesh.material is not None and mesh.uvs is not None and done.merged_vertices > 0
    assert len(mesh.vertices) == len(textured_mug.vertices) and len(mesh.faces) == len(textured_mug.faces)
    middles = mesh.vertices[mesh.faces].mean(axis=1)
    assert mesh.material.base_color is not None
    found = sample(mesh.material.base_color, mesh.uvs[mesh.uv_faces].mean(axis=1))
    assert np.abs(found - rainbow(middles)).mean() < 0.005
    assert np.abs(mesh.colors - rainbow(mesh.vertices)).mean() < 0.01  # sampled at the corners


@pytest.mark.parametrize("suffix", ["glb", "obj", "ply"])
def test_vertex_colours_come_back(tmp_path: Path, mug: Mesh, rainbow: Callable, suffix: str) -> None:
    colored = Mesh(mug.vertices, mug.faces, rainbow(mug.vertices))
    mesh = read_mesh(write_mesh(tmp_path / f"m.{suffix}", colored))
    np.testing.assert_array_equal(mesh.faces, mug.faces)
    np.testing.assert_allclose(mesh.vertices, mug.vertices, atol=1e-5)
    np.testing.assert_allclose(mesh.colors, colored.colors, atol=0.02 if suffix == "glb" else 0.004)
    assert mesh.uvs is None and mesh.material is None


def test_stl_is_joined_and_grey(tmp_path: Path, mug: Mesh) -> None:
    mesh, done = read_start_mesh(write_mesh(tmp_path / "m.stl", mug))
    assert done.merged_vertices > 1000 and (mesh.colors == 0.5).all()


def test_a_material_keeps_all_its_textures(tmp_path: Path) -> None:
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    red = Image.new("RGB", (4, 2), (255, 0, 0))
    rough = Image.new("RGB", (4, 4), (0, 51, 204))
    material = PBRMaterial(
        baseColorTexture=red, metallicRoughnessTexture=rough, baseColorFactor=[128, 255, 255, 255], roughnessFactor=0.5
    )
    square.visual = trimesh.visual.TextureVisuals(uv=np.asarray(square.vertices)[:, :2], material=material)
    square.export(tmp_path / "m.glb")
    mesh = read_mesh(tmp_path / "m.glb")
    assert mesh.material is not None and mesh.material.metallic_roughness is not None
    np.testing.assert_allclose(mesh.material.metallic_roughness[0, 0], [0.8, 0.2], atol=1e-6)
    assert mesh.material.roughness_factor == 0.5
    np.testing.assert_allclose(mesh.material.base_color_factor, [128 / 255, 1, 1], atol=1e-6)
    np.testing.assert_allclose(mesh.colors[0], [linear_to_srgb(np.array(128 / 255)), 0, 0], atol=1e-5)


def tile(color: tuple[int, int, int], size: tuple[int, int], at: float, scale: float = 1.0) -> trimesh.Trimesh:
    square = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    picture = Image.new("RGB", size, color)
    picture.putpixel((0, 0), (255, 255, 255))  # the upper left corner is white
    uv = np.asarray(square.vertices)[:, :2] * scale
    square.visual = trimesh.visual.TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=picture))
    square.apply_translation([at, 0, 0])
    return square


def test_several_pictures_become_one(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual = trimesh.visual.TextureVisuals(material=PBRMaterial(baseColorFactor=[0, 0, 255, 255]))
    box.apply_translation([0, -5, 0])
    trimesh.Scene([tile((255, 0, 0), (16, 8), 0), tile((0, 255, 0), (8, 8), 3), box]).export(tmp_path / "s.glb")
    mesh = read_mesh(tmp_path / "s.glb")
    assert mesh.is_textured and mesh.uvs is not None and mesh.material is not None and len(mesh.faces) == 16
    assert mesh.material.base_color is not None and mesh.material.base_color.shape == (20, 16, 3)
    found = sample(mesh.material.base_color, mesh.uvs[mesh.uv_faces].mean(axis=1))
    right, up = to_gltf_axes(mesh.vertices[mesh.faces].mean(axis=1)).T[:2]
    np.testing.assert_allclose(found, np.eye(3)[np.where(up < -1, 2, np.where(right < 2, 0, 1))], atol=1e-6)
    for place in ([0, 1, 0], [3, 1, 0]):  # the upper left corner of either tile, and the middle of the texel there
        (corner,) = np.flatnonzero((np.abs(to_gltf_axes(mesh.vertices) - place) < 1e-5).all(axis=1))
        texel = mesh.uvs[corner] + np.array([0.5 / 16, -0.5 / 20])
        np.testing.assert_allclose(sample(mesh.material.base_color, texel[None]), [[1, 1, 1]], atol=1e-4)


def test_repeated_pictures_leave_colours_at_the_vertices(tmp_path: Path) -> None:
    trimesh.Scene([tile((255, 0, 0), (8, 4), 0, scale=3.0), tile((0, 255, 0), (4, 4), 3)]).export(tmp_path / "s.glb")
    mesh = read_mesh(tmp_path / "s.glb")
    assert not mesh.is_textured and mesh.uvs is None
    is_right = to_gltf_axes(mesh.vertices)[:, 0] > 2
    assert (mesh.colors[is_right, 1] > 0.9).all() and (mesh.colors[~is_right, 0] > 0.9).all()


def test_materials_of_obj_files_and_face_colours(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual = trimesh.visual.TextureVisuals(uv=np.zeros((8, 2)), material=SimpleMaterial(diffuse=[255, 128, 0, 255]))
    box.export(tmp_path / "m.obj")
    np.testing.assert_allclose(read_mesh(tmp_path / "m.obj").colors[0], [1, 128 / 255, 0], atol=0.005)
    box = trimesh.creation.box()
    box.visual.face_colors = np.arange(48, dtype=np.uint8).reshape(12, 4) * 5
    box.export(tmp_path / "m.off")
    box.export(tmp_path / "m.ply")
    mesh = read_mesh(tmp_path / "m.ply")
    np.testing.assert_allclose(
        mesh.colors[mesh.faces[7]], np.tile(box.visual.face_colors[7, :3] / 255, (3, 1)), atol=1e-6
    )
    assert len(read_mesh(tmp_path / "m.off").faces) == 12


def test_size_on_request_and_too_many_faces(tmp_path: Path, mug: Mesh) -> None:
    path = write_mesh(tmp_path / "m.glb", Mesh(mug.vertices * 30 + [5, 0, 9], mug.faces, mug.colors))
    mesh, done = read_start_mesh(path, radius=0.8, max_faces=300)
    assert np.linalg.norm(mesh.vertices, axis=1).max() == pytest.approx(0.8, rel=1e-5)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), -mesh.vertices.max(axis=0), atol=1e-5)
    assert len(mesh.faces) <= 310 and done.decimated_faces > 700


def damaged(path: Path, change: Callable[[dict], None]) -> Path:
    """Rewrite the JSON of a GLB file."""
    data = path.read_bytes()
    size = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + size])
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + size :]
    head = struct.pack("<4sII", b"glTF", 2, 20 + len(text) + len(rest)) + struct.pack("<I4s", len(text), b"JSON")
    path.write_bytes(head + text + rest)
    return path


def test_unreadable_textures_are_refused(tmp_path: Path, textured_mug: Mesh) -> None:
    path = write_mesh(tmp_path / "m.glb", textured_mug)
    with pytest.raises(AssetError, match=r"picture 0 of '.*m.glb' cannot be read .* export the asset again"):
        read_start_mesh(damaged(path, lambda tree: tree["images"][0].update(bufferView=0)))
    with pytest.raises(AssetError, match=r"names 'wood.png', which cannot be read"):
        read_start_mesh(damaged(path, lambda tree: tree.update(images=[{"uri": "wood.png"}])))
    with pytest.raises(AssetError, match=r"its picture 0 is not complete"):
        read_start_mesh(damaged(path, lambda tree: tree.update(images=[{"bufferView": 99}])))
    path = write_mesh(tmp_path / "m.obj", textured_mug)
    (tmp_path / "m_base_color.png").write_bytes((tmp_path / "m_base_color.png").read_bytes()[:500])
    with pytest.raises(AssetError, match=r"picture 'm_base_color.png' of '.*m.obj' cannot be read \(.*500 bytes\)"):
        read_start_mesh(path)
    (tmp_path / "m_base_color.png").unlink()
    with pytest.raises(AssetError, match=r"names 'm_base_color.png', which cannot be read .* copy them there"):
        read_start_mesh(path)
    (tmp_path / "m.mtl").unlink()
    with pytest.raises(AssetError, match=r"names 'm.mtl', which cannot be read"):
        read_start_mesh(path)


def test_what_is_no_mesh_is_refused(tmp_path: Path, make_splats: Callable, mug: Mesh) -> None:
    for suffix in ("ply", "glb"):
        with pytest.raises(AssetError, match=r"it holds Gaussian splats\. Triangles are needed"):
            read_start_mesh(write_splats(tmp_path / f"s.{suffix}", make_splats(9)))
    trimesh.PointCloud(np.random.default_rng(0).normal(size=(30, 3))).export(tmp_path / "cloud.ply")
    with pytest.raises(AssetError, match="it holds 30 points and no triangles"):
        read_start_mesh(tmp_path / "cloud.ply")
    (tmp_path / "odd.ply").write_bytes(b"ply\nformat ascii 1.0\nelement thing 1\nproperty float a\nend_header\n1\n")
    with pytest.raises(AssetError, match=r"odd.ply': it (is broken|holds 0 points)"):
        read_start_mesh(tmp_path / "odd.ply")
    (tmp_path / "cut.glb").write_bytes(write_mesh(tmp_path / "m.glb", mug).read_bytes()[:900])
    with pytest.raises(AssetError, match="cut short"):
        read_start_mesh(tmp_path / "cut.glb")
    with pytest.raises(AssetError, match="there is no such file"):
        read_start_mesh(tmp_path / "none.obj")
    with pytest.raises(AssetError, match=r"its ending is '.fbx'. A file of triangles is needed \(.glb, .obj, .ply"):
        read_start_mesh(tmp_path / "a.fbx")
    (tmp_path / "nan.obj").write_text("v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    with pytest.raises(AssetError, match=r"nan.obj': The mesh has no usable face \(1 broken faces\)"):
        read_start_mesh(tmp_path / "nan.obj")
    (tmp_path / "flat.obj").write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    with pytest.raises(AssetError, match=r"flat.obj': The mesh has no usable face \(1 empty faces\)"):
        read_start_mesh(tmp_path / "flat.obj")
