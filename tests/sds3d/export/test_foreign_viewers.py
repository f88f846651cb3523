"""GLB files in programs that are not ours: the Khronos validator, three.js in a browser, our own viewer in one.

Skipped, with the reason, where node, its packages or a browser are missing; docs/meshes.md says how to get them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import orbit
from sds3d.export.axes import to_gltf_axes
from sds3d.export.mesh import write_mesh
from sds3d.meshing.from_splats import mesh_from_splats
from sds3d.meshing.mesh import Material, Mesh
from sds3d.report_page import write_report_page
from sds3d.run import RunFolder, write_json
from sds3d.toybox.raster import View, render_view
from sds3d.toybox.shape import ToyMesh

AZIMUTH, ELEVATION, DISTANCE, FOV, SIZE = 40.0, 25.0, 2.6, 45.0, 256
ABSENT = (255, 0, 255)

VALIDATE = """
const validator = require(process.argv[1]), fs = require("fs");
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2]))).then(report => console.log(JSON.stringify(report)));
"""

THREE_PAGE = """<!doctype html><style>body { margin: 0 }</style>
<script type="importmap">{ "imports": { "three": "/three/build/three.module.js" } }</script>
<script type="module">
import * as THREE from "three";
import { GLTFLoader } from "/three/examples/jsm/loaders/GLTFLoader.js";
const renderer = new THREE.WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
renderer.setSize(SIZE, SIZE);
document.body.appendChild(renderer.domElement);
const scene = new THREE.Scene();
scene.background = new THREE.Color("rgb(255, 0, 255)");
scene.add(new THREE.AmbientLight(0xffffff, Math.PI));  // a matt surface then shows exactly its own colour, a metal black
const camera = new THREE.PerspectiveCamera(FOV, 1, 0.01, 100);
camera.position.set(...EYE);
camera.lookAt(0, 0, 0);
new GLTFLoader().load("/asset.glb", (file) => { scene.add(file.scene); renderer.render(scene, camera); });
</script>"""


def validate(package: Path, file: Path) -> dict:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed: the Khronos validator runs in it (see docs/meshes.md)")
    done = subprocess.run([node, "-e", VALIDATE, str(package), str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["issues"]


def our_view(mesh: Mesh, azimuth: float, elevation: float, distance: float, color_at: Callable) -> View:
    """Render `mesh` by the toybox's z-buffer, with `color_at` its points; it draws one colour a face, so they are split."""
    corners, normals = (values[mesh.faces].astype(np.float32) for values in (mesh.vertices, mesh.normals))
    for _ in range(3):
        corners, normals = quartered(corners), quartered(normals)
    count, colors = len(corners), color_at(corners.mean(axis=1)).astype(np.float32)
    toy = ToyMesh(
        corners=corners,
        normals=normals,
        colors=colors,
        stripe_colors=colors,
        parts=np.zeros(count, np.int16),
        part_names=("all",),
        band_height=0.0,
    )
    where = (torch.tensor([value]) for value in (azimuth, elevation, distance))
    camera = orbit(*where, FOV, SIZE, SIZE)
    return render_view(toy, camera.cam_to_world[0].numpy(), SIZE, FOV)


def quartered(corners: np.ndarray) -> np.ndarray:
    """Return four triangles for each of [F, 3, 3]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    return np.concatenate([np.stack(part, axis=1) for part in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Intersection over union of two silhouettes."""
    return float((first & second).sum() / (first | second).sum())


def plain(mesh: Mesh) -> Mesh:
    return Mesh(mesh.vertices, mesh.faces, mesh.colors)


def everything(mesh: Mesh) -> Mesh:
    """The mesh with all five textures."""
    assert mesh.material is not None
    material = Material(
        base_color=mesh.material.base_color,
        metallic_roughness=np.full((4, 4, 2), 0.5),
        normal=np.full((8, 8, 3), [0.5, 0.5, 1.0]),
        occlusion=np.ones((4, 4)),
        emissive=np.zeros((4, 4, 3)),
    )
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uvs, mesh.uv_faces, material)


def lamp(mesh: Mesh) -> Mesh:
    """The mesh as a lamp brighter than white."""
    assert mesh.material is not None
    material = Material(base_color=mesh.material.base_color, emissive_factor=(4.0, 2.0, 1.0))
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uvs, mesh.uv_faces, material)


def unlit(mesh: Mesh) -> Mesh:
    """The mesh with colours that hold their light already."""
    assert mesh.material is not None
    material = Material(base_color=mesh.material.base_color, is_unlit=True)
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uvs, mesh.uv_faces, material)


# The walls of the mug are one face high, so colours at its vertices are a coarse copy; a metal, or colours decoded once too
# often or too seldom, would be 0.15 and more away.
CASES = [(plain, 0.08), (lambda mesh: mesh, 0.03)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [plain, lambda mesh: mesh, everything, lamp, unlit],
    ids=["vertex colours", "textured", "all", "lamp", "unlit"],
)
def test_the_khronos_validator_finds_nothing(
    tmp_path: Path, textured_mug: Mesh, node_package: Callable[[str], Path], change: Callable[[Mesh], Mesh]
) -> None:
    issues = validate(node_package("gltf-validator"), write_mesh(tmp_path / "m.glb", change(textured_mug)))
    # Tangents are left to the viewer: every one of them makes them from the texture coordinates.
    codes = {message["code"] for message in issues["messages"]} - {"MESH_PRIMITIVE_GENERATED_TANGENT_SPACE"}
    assert issues["numErrors"] == 0 and codes == set()


@pytest.mark.slow
def test_the_validator_passes_a_mesh_with_unused_and_flat_corners(
    tmp_path: Path, node_package: Callable[[str], Path]
) -> None:
    """Normals of vertices without a face, or between faces that cancel, must still be of length one."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 5, 5]], np.float32)
    mesh = Mesh(corners, np.array([[0, 1, 2], [0, 2, 1]]), np.full((4, 3), 0.5))
    issues = validate(node_package("gltf-validator"), write_mesh(tmp_path / "m.glb", mesh))
    assert issues["numErrors"] == 0
    data = bytearray((tmp_path / "m.glb").read_bytes())
    data[-8:-4] = b"\xff\xff\x00\x00"
    (tmp_path / "m.glb").write_bytes(data)
    assert validate(node_package("gltf-validator"), tmp_path / "m.glb")["numErrors"] > 0  # it does look


@pytest.mark.slow
@pytest.mark.parametrize(("change", "tolerance"), CASES, ids=["vertex colours", "textured"])
def test_three_js_shows_our_silhouette_and_our_colours(
    tmp_path: Path,
    textured_mug: Mesh,
    rainbow: Callable,
    node_package: Callable[[str], Path],
    photograph: Callable[..., np.ndarray],
    serve: Callable[[Path], str],
    change: Callable[[Mesh], Mesh],
    tolerance: float,
) -> None:
    ours = our_view(textured_mug, AZIMUTH, ELEVATION, DISTANCE, rainbow)
    (tmp_path / "three").symlink_to(node_package("three"))
    write_mesh(tmp_path / "asset.glb", change(textured_mug))
    where = (torch.tensor([value]) for value in (AZIMUTH, ELEVATION, DISTANCE))
    eye = to_gltf_axes(orbit(*where, FOV, 8, 8).cam_to_world[:, :3, 3].numpy())[0].tolist()
    page = THREE_PAGE.replace("SIZE", str(SIZE)).replace("FOV", str(FOV)).replace("EYE", str(eye))
    (tmp_path / "page.html").write_text(page)
    picture = photograph(f"{serve(tmp_path)}/page.html", 600, 400)[:SIZE, :SIZE]
    there = (picture != ABSENT).any(axis=2)
    assert 0.05 < there.mean() < 0.6 and overlap(ours.alpha > 0.0, there) > 0.95
    both = (ours.alpha > 0.99) & there
    assert np.abs(picture[both] / 255.0 - ours.albedo[both]).mean() < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(("change", "tolerance"), CASES, ids=["vertex colours", "textured"])
def test_the_viewer_of_the_report_shows_what_we_render(
    tmp_path: Path,
    textured_mug: Mesh,
    rainbow: Callable,
    photograph: Callable[..., np.ndarray],
    change: Callable[[Mesh], Mesh],
    tolerance: float,
) -> None:
    run = RunFolder(tmp_path)
    write_json(run.info_file, {"prompt": "a mug"})
    write_mesh(run.export / "mesh.glb", change(textured_mug))
    page = write_report_page(run)
    # The canvas alone, as large as our picture; the viewer stands 2.8 radii away and looks at the middle of the box.
    style = (
        f"canvas {{ position: fixed; inset: 0; width: {SIZE}px !important; height: {SIZE}px !important; z-index: 9 }}"
    )
    page.write_text(page.read_text().replace("</style>", style + "</style>"))
    picture = photograph(f"{page.as_uri()}#az={AZIMUTH:g}&el={ELEVATION:g}&still", 600, 400)[:SIZE, :SIZE]
    low, high = textured_mug.vertices.min(axis=0), textured_mug.vertices.max(axis=0)
    centred = Mesh(textured_mug.vertices - (low + high) / 2, textured_mug.faces, textured_mug.colors)
    distance = 2.8 * float(np.linalg.norm(high - low)) / 2
    ours = our_view(centred, AZIMUTH, ELEVATION, distance, lambda points: rainbow(points + (low + high) / 2))
    there = (np.abs(picture.astype(int) - picture[0, 0]) > 2).any(axis=2)
    assert 0.05 < there.mean() < 0.6 and overlap(ours.alpha > 0.0, there) > 0.95
    both = (ours.alpha > 0.99) & there
    assert np.abs(picture[both] / 255.0 - ours.rgb[both]).mean() < tolerance  # shaded as our renders are


@pytest.mark.slow
def test_the_validator_passes_meshes_of_splats(
    tmp_path: Path, make_splats: Callable, node_package: Callable[[str], Path]
) -> None:
    mesh = write_mesh(tmp_path / "m.glb", mesh_from_splats(make_splats(40), resolution=16, target_faces=500))
    assert validate(node_package("gltf-validator"), mesh)["messages"] == []
