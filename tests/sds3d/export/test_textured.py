"""Textured meshes in foreign readers: trimesh for GLB and OBJ, USD's own checker for USDZ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from sds3d.errors import AssetError, BackendError
from sds3d.export import glb
from sds3d.export import usdz as usdz_module
from sds3d.export.axes import from_gltf_axes, linear_to_srgb, srgb_to_linear, to_gltf_axes
from sds3d.export.mesh import write_mesh
from sds3d.export.textures import gltf_material
from sds3d.meshing.bake import sample
from sds3d.meshing.mesh import Material, Mesh


def loaded(path: Path) -> trimesh.Trimesh:
    made = trimesh.load(path, process=False)
    (mesh,) = made.geometry.values() if isinstance(made, trimesh.Scene) else (made,)
    return mesh


def error_at_middles(vertices: Any, faces: Any, uv: Any, picture: Any, color_at: Callable) -> float:
    """Mean difference of a texture, read as its format says, from `color_at` at the middles of the faces."""
    image = np.asarray(picture.convert("RGB"), np.float32) / 255.0
    found = sample(image, np.asarray(uv)[faces].mean(axis=1))
    return float(np.abs(found - color_at(from_gltf_axes(np.asarray(vertices))[faces].mean(axis=1))).mean())


@pytest.mark.parametrize("suffix", ["glb", "obj"])
def test_trimesh_finds_the_colours_where_they_belong(
    tmp_path: Path, textured_mug: Mesh, rainbow: Callable, suffix: str
) -> None:
    mesh = loaded(write_mesh(tmp_path / f"m.{suffix}", textured_mug))
    assert mesh.visual.kind == "texture" and len(mesh.faces) == len(textured_mug.faces)
    material = mesh.visual.material
    picture = material.baseColorTexture if suffix == "glb" else material.image
    assert picture.size == (256, 256)
    assert error_at_middles(mesh.vertices, mesh.faces, mesh.visual.uv, picture, rainbow) < 0.005
    upside_down = np.asarray(mesh.visual.uv) * [1, -1] + [0, 1]
    assert error_at_middles(mesh.vertices, mesh.faces, upside_down, picture, rainbow) > 0.05  # it would show


def test_glb_is_matt_and_holds_its_pictures(tmp_path: Path, textured_mug: Mesh, mug: Mesh) -> None:
    tree, binary = glb.decode(write_mesh(tmp_path / "m.glb", textured_mug).read_bytes(), "m.glb")
    surface = tree["materials"][0]["pbrMetallicRoughness"]
    assert (surface["metallicFactor"], surface["roughnessFactor"]) == (0.0, 1.0)
    view = tree["bufferViews"][tree["images"][0]["bufferView"]]
    assert binary[view["byteOffset"] :][:8] == b"\x89PNG\r\n\x1a\n" and "target" not in view
    assert view["byteOffset"] % 4 == 0 and len(binary) % 4 == 0
    attributes = tree["meshes"][0]["primitives"][0]["attributes"]
    assert set(attributes) == {"POSITION", "NORMAL", "TEXCOORD_0"}  # vertex colours would tint the texture
    tree, _ = glb.decode(write_mesh(tmp_path / "p.glb", mug).read_bytes(), "p.glb")
    assert tree["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0.0 and "images" not in tree


def test_unused_vertices_and_kept_coordinates_of_an_unpainted_mesh(tmp_path: Path, textured_mug: Mesh) -> None:
    bare = replace(textured_mug, material=None)
    tree, _ = glb.decode(write_mesh(tmp_path / "m.glb", bare).read_bytes(), "m.glb")
    assert set(tree["meshes"][0]["primitives"][0]["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0", "COLOR_0"}


def test_every_texture_gets_its_channel() -> None:
    rng = np.random.default_rng(0)
    material = Material(
        base_color=rng.uniform(size=(2, 2, 3)),
        metallic_roughness=np.stack([np.zeros((2, 2)), np.ones((2, 2))], axis=2),
        normal=np.full((2, 2, 3), [0.5, 0.5, 1.0]),
        occlusion=np.full((2, 2, 1), 0.5),
        emissive=np.ones((2, 2, 3)),
        base_color_factor=(0.5, 1.0, 1.0),
    )
    tree, pictures = gltf_material(material)
    surface = tree["pbrMetallicRoughness"]
    assert len(pictures) == 5 and surface["baseColorFactor"] == [0.5, 1.0, 1.0, 1.0]
    assert (surface["metallicFactor"], surface["roughnessFactor"], tree["emissiveFactor"]) == (
        1.0,
        1.0,
        [1.0, 1.0, 1.0],
    )
    packed = pixels(pictures[surface["metallicRoughnessTexture"]["index"]])
    assert packed[0, 0, 1:].tolist() == [255, 0]  # green: roughness, blue: metalness
    assert pixels(pictures[tree["occlusionTexture"]["index"]])[0, 0] == 128


def test_lamps_and_baked_light_name_their_extensions(tmp_path: Path, textured_mug: Mesh) -> None:
    """Emission above 1 is a factor of at most 1 and a strength; colours that hold their light are not lit again."""
    tree, _ = gltf_material(Material(emissive_factor=(4.0, 2.0, 0.0)))
    assert tree["emissiveFactor"] == [1.0, 0.5, 0.0]
    assert tree["extensions"] == {"KHR_materials_emissive_strength": {"emissiveStrength": 4.0}}
    assert gltf_material(Material(is_unlit=True))[0]["extensions"] == {"KHR_materials_unlit": {}}
    lamp = replace(textured_mug, material=Material(emissive_factor=(4.0, 2.0, 0.0)))
    root, _ = glb.decode(write_mesh(tmp_path / "m.glb", lamp).read_bytes(), "m.glb")
    assert root["extensionsUsed"] == ["KHR_materials_emissive_strength"]
    plain, _ = glb.decode(write_mesh(tmp_path / "p.glb", textured_mug).read_bytes(), "p.glb")
    assert "extensionsUsed" not in plain and "extensions" not in gltf_material(Material())[0]


def pixels(data: bytes) -> np.ndarray:
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(data)))


def test_obj_names_files_that_are_there(tmp_path: Path, textured_mug: Mesh) -> None:
    path = write_mesh(tmp_path / "my müg.obj", textured_mug)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["my müg.obj", "my_m_g.mtl", "my_m_g_base_color.png"]
    lines = path.read_text().splitlines()
    assert "mtllib my_m_g.mtl" in lines and "usemtl surface" in lines
    assert "map_Kd my_m_g_base_color.png" in (tmp_path / "my_m_g.mtl").read_text().splitlines()
    assert textured_mug.uvs is not None and sum(line.startswith("vt ") for line in lines) == len(textured_mug.uvs)
    assert sum(line.startswith("v ") for line in lines) == len(textured_mug.vertices)  # seams split nothing


@pytest.mark.parametrize("textured", [True, False])
def test_usdz_passes_the_checker_and_holds_the_mesh(
    tmp_path: Path, textured_mug: Mesh, mug: Mesh, rainbow: Callable, textured: bool
) -> None:
    pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'sds3d[usd]'")
    from pxr import Usd, UsdGeom

    given = textured_mug if textured else mug
    path = write_mesh(tmp_path / "m.usdz", given)
    assert complaints(path) == []
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Y" and stage.GetDefaultPrim().GetName() == "object"
    shape = UsdGeom.Mesh.Get(stage, "/object/mesh")
    np.testing.assert_allclose(np.array(shape.GetPointsAttr().Get()), to_gltf_axes(given.vertices), atol=1e-6)
    faces = np.array(shape.GetFaceVertexIndicesAttr().Get()).reshape(-1, 3)
    np.testing.assert_array_equal(faces, given.faces)
    if textured:
        place = UsdGeom.PrimvarsAPI(shape).GetPrimvar("st")
        uvs = np.array(place.ComputeFlattened()).reshape(-1, 3, 2)
        assert given.uvs is not None
        np.testing.assert_allclose(uvs, given.uvs[given.uv_faces], atol=1e-6)
    else:
        colors = np.array(shape.GetDisplayColorAttr().Get())
        np.testing.assert_allclose(colors, srgb_to_linear(mug.colors), atol=1e-6)


def complaints(path: Path) -> list[str]:
    """What `usdchecker` says: every validator that comes with USD, on the whole package."""
    from pxr import Usd, UsdValidation

    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert {"UsdzPackageValidator", "MissingReferenceValidator"} <= {
        str(v.GetMetadata().name).split(":")[-1] for v in validators
    }
    errors = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(str(path)))
    return [error.GetMessage() for error in errors]


def test_all_textures_pass_the_usd_checker_and_a_lost_one_does_not(tmp_path: Path, textured_mug: Mesh) -> None:
    pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'sds3d[usd]'")
    from pxr import Sdf

    flat = np.full((4, 4, 3), [0.5, 0.5, 1.0])
    material = Material(
        base_color=flat, metallic_roughness=flat[..., :2], normal=flat, occlusion=flat[..., :1], emissive=flat
    )
    path = write_mesh(tmp_path / "m.usdz", replace(textured_mug, material=material))
    assert complaints(path) == []
    package = Sdf.ZipFile.Open(str(path))
    assert set(package.GetFileNames()) == {
        "object.usdc", "base_color.png", "metallic.png", "roughness.png", "normal.png", "occlusion.png", "emissive.png",
    }  # fmt: skip
    (tmp_path / "object.usdc").write_bytes(package.GetFile("object.usdc"))
    lost = Sdf.ZipFileWriter.CreateNew(str(tmp_path / "lost.usdz"))
    lost.AddFile(str(tmp_path / "object.usdc"), "object.usdc")
    lost.Save()
    assert complaints(tmp_path / "lost.usdz")


def test_without_usd_the_command_is_said(tmp_path: Path, mug: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usdz_module, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"USDZ cannot be written: .* pip install 'sds3d\[usd\]'; or choose another"):
        write_mesh(tmp_path / "m.usdz", mug)
    assert not list(tmp_path.iterdir())


def test_coordinates_that_are_not_finite_are_not_written(tmp_path: Path, textured_mug: Mesh) -> None:
    assert textured_mug.uvs is not None
    broken = replace(textured_mug, uvs=textured_mug.uvs * np.nan)
    for suffix in ("glb", "obj", "usdz"):
        with pytest.raises(AssetError, match="finite places, colours and texture coordinates are needed"):
            write_mesh(tmp_path / f"m.{suffix}", broken)
    assert not list(tmp_path.iterdir())


def test_colour_encodings_and_axes_are_inverse() -> None:
    values = np.linspace(0, 1, 50)
    np.testing.assert_allclose(linear_to_srgb(srgb_to_linear(values)), values, atol=1e-6)
    vectors = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(from_gltf_axes(to_gltf_axes(vectors)), vectors, atol=1e-6)
