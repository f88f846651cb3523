"""KHR_gaussian_splatting: attributes as the extension wants them, round trip, nodes, refused files."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export import glb
from sds3d.export.splat_files import gltf
from sds3d.export.splats import Splats

Make = Callable[..., Splats]
PREFIX = "KHR_gaussian_splatting:"


def changed(data: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return a GLB file whose JSON tree was changed."""
    tree, binary = glb.decode(data, "x.glb")
    change(tree)
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(binary)) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


@pytest.mark.parametrize("rest", [None, 3, 8, 15])
def test_round_trip(tmp_path: Path, make_splats: Make, rest: int | None) -> None:
    splats = make_splats(9, rest)
    back = gltf.read(gltf.write(tmp_path / "s.glb", splats))
    for name in ("means", "log_scales", "opacity_logits", "sh0", "rotations"):
        np.testing.assert_allclose(getattr(back, name), getattr(splats, name), atol=2e-5, err_msg=name)
    assert (back.shN is None) == (rest is None)
    if splats.shN is not None and back.shN is not None:
        np.testing.assert_allclose(back.shN, splats.shN, atol=1e-5)


def test_the_file_holds_what_the_extension_prescribes(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(5, 3)
    data = gltf.write(tmp_path / "s.glb", splats).read_bytes()
    assert struct.unpack_from("<I", data, 8)[0] == len(data) and len(data) % 4 == 0
    tree, binary = glb.decode(data, "s.glb")
    assert tree["extensionsUsed"] == ["KHR_gaussian_splatting"] and "extensionsRequired" not in tree
    primitive = tree["meshes"][0]["primitives"][0]
    assert primitive["mode"] == 0 and "indices" not in primitive
    how = primitive["extensions"]["KHR_gaussian_splatting"]
    assert how == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    names = primitive["attributes"]
    expected = {"POSITION", "COLOR_0"} | {PREFIX + name for name in ("ROTATION", "SCALE", "OPACITY")}
    expected |= {f"{PREFIX}SH_DEGREE_0_COEF_0", *(f"{PREFIX}SH_DEGREE_1_COEF_{n}" for n in range(3))}
    assert set(names) == expected
    kinds = {name: tree["accessors"][index]["type"] for name, index in names.items()}
    assert kinds[PREFIX + "ROTATION"] == kinds["COLOR_0"] == "VEC4" and kinds[PREFIX + "OPACITY"] == "SCALAR"
    assert {accessor["componentType"] for accessor in tree["accessors"]} == {5126}
    values = {name: glb.values_of(tree, binary, index, "s.glb") for name, index in names.items()}
    turn = np.array(WORLD_TO_GLTF)
    np.testing.assert_allclose(values["POSITION"], splats.means @ turn.T, atol=1e-6)
    np.testing.assert_allclose(values[PREFIX + "SCALE"], np.exp(splats.log_scales), rtol=1e-5)
    np.testing.assert_allclose(values[PREFIX + "OPACITY"][:, 0], splats.opacities, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(values[PREFIX + "ROTATION"], axis=1), 1.0, atol=1e-6)
    found = Rotation.from_quat(values[PREFIX + "ROTATION"]).as_matrix()
    np.testing.assert_allclose(found, turn @ splats.rotations, atol=1e-5)
    np.testing.assert_allclose(values["COLOR_0"][:, 3], splats.opacities, rtol=1e-5)
    linear = np.where(splats.rgb <= 0.04045, splats.rgb / 12.92, ((splats.rgb + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(values["COLOR_0"][:, :3], linear, atol=1e-5)


def test_trimesh_opens_it_as_points(tmp_path: Path, make_splats: Make) -> None:
    """A viewer without the extension sees a coloured point cloud."""
    import trimesh

    splats = make_splats(12)
    scene = trimesh.load(gltf.write(tmp_path / "s.glb", splats))
    (cloud,) = scene.geometry.values()
    assert isinstance(cloud, trimesh.PointCloud)
    np.testing.assert_allclose(cloud.vertices, splats.means @ np.array(WORLD_TO_GLTF).T, atol=1e-6)


def test_nodes_move_turn_and_enlarge(tmp_path: Path, make_splats: Make) -> None:
    splats = make_splats(4, 3)
    turn = Rotation.from_rotvec([0.3, 0.5, -0.2])

    def move(tree: dict[str, Any]) -> None:
        inner = {"mesh": 0, "rotation": turn.as_quat().tolist(), "scale": [2, 2, 2]}
        tree["nodes"] = [{"children": [1], "translation": [0.5, -1.0, 2.0]}, inner]

    data = changed(gltf.write(tmp_path / "s.glb", splats).read_bytes(), move)
    (tmp_path / "t.glb").write_bytes(data)
    back = gltf.read(tmp_path / "t.glb")
    frame = np.array(WORLD_TO_GLTF)
    expected = (2.0 * splats.means @ frame.T @ turn.as_matrix().T + [0.5, -1.0, 2.0]) @ frame
    np.testing.assert_allclose(back.means, expected, atol=1e-5)
    np.testing.assert_allclose(back.log_scales, splats.log_scales + np.log(2.0), atol=1e-5)
    np.testing.assert_allclose(back.rotations, frame.T @ turn.as_matrix() @ frame @ splats.rotations, atol=1e-5)


def test_quantised_attributes_are_read(tmp_path: Path) -> None:
    """Rotation as signed bytes, opacity as bytes, both normalised, with a stride."""
    means = np.zeros((2, 3), "<f4")
    rotation = np.array([[0, 0, 0, 127], [0, 127, 0, 0]], "i1")
    chunks = [means.tobytes(), rotation.tobytes(), np.ones((2, 3), "<f4").tobytes(), b"\x80\0\0\0\xff\0\0\0"]
    chunks.append(np.zeros((2, 3), "<f4").tobytes())
    starts = np.cumsum([0, *map(len, chunks)]).tolist()
    views: list[dict[str, Any]] = [
        {"buffer": 0, "byteOffset": start, "byteLength": len(c)} for start, c in zip(starts, chunks, strict=False)
    ]
    views[3]["byteStride"] = 4
    kinds = [(5126, "VEC3"), (5120, "VEC4"), (5126, "VEC3"), (5121, "SCALAR"), (5126, "VEC3")]
    accessors = [
        {"bufferView": i, "componentType": code, "type": kind, "count": 2, "normalized": code != 5126}
        for i, (code, kind) in enumerate(kinds)
    ]
    names = ["POSITION", *(PREFIX + n for n in ("ROTATION", "SCALE", "OPACITY", "SH_DEGREE_0_COEF_0"))]
    primitive = {
        "attributes": {name: i for i, name in enumerate(names)},
        "mode": 0,
        "extensions": {"KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    tree = {"nodes": [{"mesh": 0}], "meshes": [{"primitives": [primitive]}], "buffers": [{"byteLength": starts[-1]}]}
    tree |= {"bufferViews": views, "accessors": accessors}
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 0) + struct.pack("<I4s", len(text), b"JSON")
    binary = b"".join(chunks)
    (tmp_path / "q.glb").write_bytes(head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary)
    back = gltf.read(tmp_path / "q.glb")
    np.testing.assert_allclose(back.opacities, [128 / 255, 1.0], atol=1e-5)
    frame = np.array(WORLD_TO_GLTF)
    np.testing.assert_allclose(back.rotations, frame.T @ np.stack([np.eye(3), np.diag([-1, 1, -1])]), atol=1e-6)


def test_refused_files_name_the_reason(tmp_path: Path, make_splats: Make) -> None:
    whole = gltf.write(tmp_path / "s.glb", make_splats(3)).read_bytes()

    def primitive(tree: dict[str, Any]) -> dict[str, Any]:
        return tree["meshes"][0]["primitives"][0]

    def kernel(tree: dict[str, Any]) -> None:
        primitive(tree)["extensions"]["KHR_gaussian_splatting"]["kernel"] = "cube"

    def compressed(tree: dict[str, Any]) -> None:
        primitive(tree)["extensions"]["KHR_gaussian_splatting"]["extensions"] = {"X": {}}

    def no_scale(tree: dict[str, Any]) -> None:
        del primitive(tree)["attributes"][PREFIX + "SCALE"]

    def draft(tree: dict[str, Any]) -> None:
        names = primitive(tree)["attributes"]
        names[PREFIX + "SCALE"] = names[PREFIX + "SH_DEGREE_0_COEF_0"]

    cases: list[tuple[bytes, str]] = [
        (b"solid", "does not begin as binary glTF"),
        (whole[:-5], "cut short: .* bytes of arrays are there"),
        (whole[:60], "cut short or has no JSON"),
        (whole.replace(b'{"asset"', b'{"asset,', 1), "JSON chunk is not valid"),
        (changed(whole, kernel), "unknown kind .kernel 'cube'"),
        (changed(whole, compressed), r"unknown kind .*extensions"),
        (changed(whole, no_scale), f"the attribute {PREFIX}SCALE is missing"),
        (changed(whole, draft), "a scale is negative: drafts before 2026"),
        (changed(whole, lambda tree: primitive(tree).pop("extensions")), "no mesh in it holds Gaussians"),
        (changed(whole, lambda tree: tree["nodes"][0].update(scale=[1, 2, 1])), "stretches or mirrors"),
        (changed(whole, lambda tree: tree["nodes"][0].update(scale=[-1, -1, -1])), "stretches or mirrors"),
        (changed(whole, lambda tree: tree["nodes"][0].update(children=[0])), "nodes that contain themselves"),
        (changed(whole, lambda tree: tree["nodes"][0].update(mesh=7)), "tree of nodes and meshes is not complete"),
        (changed(whole, lambda tree: tree["accessors"][0].update(count=999)), "accessor 0 reaches beyond its data"),
        (changed(whole, lambda tree: tree["accessors"][0].update(count=2)), "attributes have different lengths"),
        (changed(whole, lambda tree: tree["accessors"][0].pop("type")), "accessor 0 is not complete"),
        (changed(whole, lambda tree: tree["buffers"][0].update(uri="a.bin")), "sparse or in another file"),
    ]
    for data, message in cases:
        (tmp_path / "bad.glb").write_bytes(data)
        with pytest.raises(AssetError, match=message):
            gltf.read(tmp_path / "bad.glb")
    with pytest.raises(AssetError, match="0 Gaussians, glTF needs at least 1"):
        gltf.write(tmp_path / "none.glb", make_splats(0))
