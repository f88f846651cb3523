"""M30: what a GLB says after a foreign reader had it is what was written, and our render of it is the render before."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from renderers.gbuffer import from_mesh
from renderers.gbuffer_assets import Guess, shown_by
from renderers.material_mesh import MaterialMesh
from sds3d.cameras import Cameras, orbit
from sds3d.export.axes import linear_to_srgb, to_gltf_axes
from sds3d.export.mesh import write_mesh
from sds3d.export.read_mesh import read_mesh, read_mesh_and_normals
from sds3d.meshing.bake import bake_image, find_texels
from sds3d.meshing.mesh import Material, Mesh
from sds3d.meshing.unwrap import unwrap
from sds3d.shading.deferred import ShadeSettings, composite
from sds3d.shading.lights import open_light
from sds3d.shading.prefilter import Prefiltered

SIZE = 192
"""Texels along an edge of the textures."""


def base_at(points: np.ndarray) -> np.ndarray:
    """Linear base colours, alike on no two axes."""
    return 0.45 + 0.35 * np.sin(2.5 * points + np.array([0.0, 1.0, 2.0]))


def packed_at(points: np.ndarray) -> np.ndarray:
    """Metalness, larger to the left; roughness, larger above."""
    return np.stack([1 / (1 + np.exp(-6 * points[:, 1])), 0.55 + 0.4 * np.tanh(2 * points[:, 2])], axis=1)


def sphere() -> Mesh:
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.6)
    return Mesh(np.asarray(ball.vertices), np.asarray(ball.faces), np.full((len(ball.vertices), 3), 0.5))


def box() -> Mesh:
    import trimesh

    made = trimesh.creation.box((0.9, 0.7, 0.5))
    return Mesh(np.asarray(made.vertices), np.asarray(made.faces), np.full((len(made.vertices), 3), 0.5))


def character() -> Mesh:
    from sds3d.meshing.from_toybox import mesh_from_toy
    from sds3d.toybox.captions import Description
    from sds3d.toybox.dataset import build

    return mesh_from_toy(build(Description(noun="robot", color="white"), np.random.default_rng(0)))


@pytest.fixture(scope="module", params=[sphere, box, character], ids=["sphere", "box", "character"])
def textured(request: pytest.FixtureRequest) -> tuple[Mesh, int]:
    """A mesh with all pictures of a material, and the number of its charts."""
    shape: Callable[[], Mesh] = request.param
    flat = unwrap(shape(), SIZE)
    texels = find_texels(flat.mesh, SIZE)
    tilt = np.array([0.5 + 0.5 * 0.2, 0.5, 0.5 + 0.5 * 0.96**0.5], np.float32)
    material = Material(
        base_color=linear_to_srgb(bake_image(flat.mesh, texels, base_at)),
        metallic_roughness=bake_image(flat.mesh, texels, packed_at, 2),
        normal=np.broadcast_to(tilt, (SIZE, SIZE, 3)),
        occlusion=bake_image(flat.mesh, texels, lambda points: 0.8 + 0.2 * points[:, 2:], 1),
    )
    mesh = flat.mesh
    return Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uvs, mesh.uv_faces, material), flat.charts


@pytest.fixture(scope="module")
def light() -> Prefiltered:
    return open_light("studio", 16).prefiltered()


@pytest.fixture(scope="module")
def cameras() -> Cameras:
    angles = torch.tensor([30.0, 160.0]), torch.tensor([20.0, -15.0]), torch.tensor([2.2, 2.2])
    return orbit(*angles, 45.0, 96, 96)


@torch.no_grad()
def shown(asset: MaterialMesh, cameras: Cameras, light: Prefiltered) -> torch.Tensor:
    seen = asset.gbuffer(cameras)
    return composite(asset.picture(seen, light), seen.alpha, torch.ones(len(cameras), 3))


def psnr(first: torch.Tensor, second: torch.Tensor, mask: torch.Tensor | None = None) -> float:
    squares = (first.clamp(0, 1) - second.clamp(0, 1)).square()
    return float(-10.0 * torch.log10(squares.mean() if mask is None else squares[mask].mean()))


def from_bytes(path: Path) -> Mesh:
    """Read a GLB with pygltflib and nothing of ours: arrays by their accessors, pictures by pillow."""
    import pygltflib
    from PIL import Image

    file = pygltflib.GLTF2().load(str(path))
    blob = file.binary_blob()

    def chunk(number: int) -> bytes:
        view = file.bufferViews[number]
        return blob[view.byteOffset : view.byteOffset + view.byteLength]

    def array(number: int, kind: str, width: int) -> np.ndarray:
        accessor = file.accessors[number]
        return np.frombuffer(chunk(accessor.bufferView), kind).reshape(accessor.count, width)

    def picture(texture: object) -> np.ndarray:
        source = file.textures[texture.index].source  # type: ignore[attr-defined]
        return np.asarray(Image.open(io.BytesIO(chunk(file.images[source].bufferView))))

    (primitive,) = file.meshes[0].primitives
    (surface,) = file.materials
    pbr = surface.pbrMetallicRoughness
    place = array(primitive.attributes.POSITION, "<f4", 3)[:, [2, 0, 1]]  # glTF's +Z is our +X, +X our +Y, +Y our +Z
    uvs = array(primitive.attributes.TEXCOORD_0, "<f4", 2) * [1, -1] + [0, 1]
    faces = array(primitive.indices, "<u4", 1).reshape(-1, 3).astype(np.int64)
    orm = picture(pbr.metallicRoughnessTexture)
    material = Material(
        base_color=picture(pbr.baseColorTexture),
        metallic_roughness=orm[..., [2, 1]],
        normal=picture(surface.normalTexture),
        occlusion=picture(surface.occlusionTexture),
    )
    return Mesh(place, faces, np.full(place.shape, 0.5), uvs, faces, material)


def test_pictures_are_the_same_to_the_byte(textured: tuple[Mesh, int], tmp_path: Path) -> None:
    mesh, charts = textured
    assert charts > 1
    path = write_mesh(tmp_path / "m.glb", mesh)
    ours, theirs = read_mesh(path), from_bytes(path)
    assert mesh.material is not None and ours.material is not None and theirs.material is not None
    for name, texture in mesh.material.textures.items():
        wanted = np.rint(texture * 255).astype(np.uint8)
        for read in (ours.material, theirs.material):
            np.testing.assert_array_equal(np.rint(read.textures[name] * 255).astype(np.uint8), wanted, err_msg=name)
    places = {tuple(row) for row in np.round(to_gltf_axes(mesh.vertices), 5).tolist()}
    assert places >= {tuple(row) for row in np.round(to_gltf_axes(theirs.vertices), 5).tolist()}


def test_texels_lie_where_they_were_baked(textured: tuple[Mesh, int], tmp_path: Path) -> None:
    """v and the axes: the colour that the file gives a place is the one of that place; upside down it is not."""
    from sds3d.meshing.bake import sample

    mesh = from_bytes(write_mesh(tmp_path / "m.glb", textured[0]))
    assert mesh.uvs is not None and mesh.uv_faces is not None and mesh.material is not None
    rng = np.random.default_rng(0)
    weight, face = rng.dirichlet(np.ones(3), 500), rng.integers(len(mesh.faces), size=500)
    points = np.einsum("nk,nkc->nc", weight, mesh.vertices[mesh.faces[face]])
    uvs = np.einsum("nk,nkc->nc", weight, mesh.uvs[mesh.uv_faces[face]])
    packed = mesh.material.textures["metallic_roughness"]
    assert np.abs(sample(packed, uvs) - packed_at(points)).mean() < 0.01
    assert np.abs(sample(packed, uvs * [1, -1] + [0, 1]) - packed_at(points)).mean() > 0.05


@pytest.mark.parametrize("reader", ["trimesh", "pygltflib"])
def test_the_file_renders_as_the_mesh_in_memory(
    textured: tuple[Mesh, int], reader: str, tmp_path: Path, cameras: Cameras, light: Prefiltered
) -> None:
    path = write_mesh(tmp_path / "m.glb", textured[0])
    read = read_mesh(path) if reader == "trimesh" else from_bytes(path)
    before, after = (shown(MaterialMesh(mesh), cameras, light) for mesh in (textured[0], read))
    assert psnr(after, before) > 40.0
    assert psnr(after.flip(2), before) < 30.0  # the test can fail


def test_the_file_renders_as_the_function_it_was_baked_from(
    textured: tuple[Mesh, int], cameras: Cameras, light: Prefiltered, tmp_path: Path
) -> None:
    """Without pictures of normals and occlusion, inside the outline: textures against the function itself."""
    mesh, _ = textured
    assert mesh.material is not None
    plain = Material(base_color=mesh.material.base_color, metallic_roughness=mesh.material.metallic_roughness)
    path = write_mesh(tmp_path / "m.glb", Mesh(mesh.vertices, mesh.faces, mesh.colors, mesh.uvs, mesh.uv_faces, plain))
    after = shown(MaterialMesh(read_mesh(path)), cameras, light)

    def material(places: object) -> dict[str, torch.Tensor]:
        points = places.position.numpy()  # type: ignore[attr-defined]
        packed = torch.from_numpy(packed_at(points)).float()
        base = torch.from_numpy(base_at(points)).float()
        return {"base_colour": base, "roughness": packed[:, 1:], "metallic": packed[:, :1]}

    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    with torch.no_grad():
        seen = from_mesh(vertices, faces, material, cameras)
        wanted = shown_by(ShadeSettings(mode="layered"))(seen, light)
        wanted = composite(wanted, seen.alpha, torch.ones(len(cameras), 3))
    assert psnr(after, wanted) > 40.0


def test_bumps_turn_normals_along_u_and_v() -> None:
    """A square that faces +Z, u along +X and v along +Y; mirrored, red bumps point the other way."""
    vertices = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    camera = orbit(torch.tensor([0.0]), torch.tensor([89.0]), torch.tensor([2.0]), 45.0, 16, 16)
    for sign in (1.0, -1.0):
        uvs = (vertices[:, :2] + 0.5) * [sign, 1.0] + [0.0 if sign > 0 else 1.0, 0.0]
        for bump in ((0.6, 0.0, 0.8), (0.0, 0.6, 0.8)):
            picture = np.broadcast_to(0.5 + 0.5 * np.array(bump, np.float32), (4, 4, 3))
            white = Material(base_color=np.ones((4, 4, 3)), normal=picture)
            seen = MaterialMesh(Mesh(vertices, faces, np.ones_like(vertices), uvs, faces, white)).gbuffer(camera)
            expected = torch.tensor([sign * bump[0], bump[1], bump[2]])
            torch.testing.assert_close(seen.normal[0, 8, 8], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("ending", ["glb", "ply", "obj"])
def test_hard_edges_of_a_file_are_hard_and_smooth_ones_smooth(ending: str, tmp_path: Path, cameras: Cameras) -> None:
    """A box of single faces with normals of their own is seen with those; without them, or with smooth ones, it is smooth."""
    box = trimesh.creation.box([1.0, 0.8, 0.6])
    flat = trimesh.Trimesh(
        box.vertices[box.faces].reshape(-1, 3),
        np.arange(36).reshape(-1, 3),
        vertex_normals=np.repeat(box.face_normals, 3, axis=0),
        process=False,
    )
    path, scene = tmp_path / f"box.{ending}", trimesh.Scene()
    scene.add_geometry(flat, transform=trimesh.transformations.rotation_matrix(0.5, [0.3, 0.5, 1.0]))
    options = {"glb": {"include_normals": True}, "ply": {"vertex_normal": True}, "obj": {"include_normals": True}}
    (scene if ending == "glb" else flat).export(path, **options[ending])
    mesh, normals = read_mesh_and_normals(path)
    assert normals is not None
    hard, soft = MaterialMesh(mesh, normals=normals).gbuffer(cameras), MaterialMesh(mesh).gbuffer(cameras)
    inside = hard.alpha[..., 0] > 0.999
    corners = torch.from_numpy(mesh.vertices[mesh.faces])
    sides = torch.nn.functional.normalize(torch.cross(*(corners[:, 1:] - corners[:, :1]).unbind(1), dim=1), dim=1)
    along = (hard.normal[inside] @ sides.T).amax(dim=1)
    assert (along > 0.999).float().mean() > 0.9  # blended where faces meet
    assert ((soft.normal[inside] @ sides.T).amax(dim=1) > 0.999).float().mean() < 0.3
    torch.testing.assert_close(hard.alpha, soft.alpha, atol=1e-5, rtol=0)


def test_files_without_normals_or_with_useless_ones_are_smooth(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.export(tmp_path / "plain.glb", include_normals=False)
    assert read_mesh_and_normals(tmp_path / "plain.glb")[1] is None
    flat = trimesh.Trimesh(box.vertices, box.faces, vertex_normals=np.zeros((8, 3)), process=False)
    flat.export(tmp_path / "zero.ply", vertex_normal=True)
    assert read_mesh_and_normals(tmp_path / "zero.ply")[1] is None


def test_factors_emission_and_guesses() -> None:
    mesh = sphere()
    uvs = np.zeros((len(mesh.vertices), 2), np.float32)
    camera = orbit(torch.tensor([0.0]), torch.tensor([0.0]), torch.tensor([2.5]), 45.0, 16, 16)

    def seen(material: Material | None, **guess: float) -> tuple[MaterialMesh, torch.Tensor]:
        given = Mesh(mesh.vertices, mesh.faces, mesh.colors, uvs, mesh.faces, material)
        asset = MaterialMesh(given, Guess(**guess))
        buffer = asset.gbuffer(camera)
        planes = (buffer.base_colour, buffer.roughness, buffer.metallic, buffer.extras.get("emission", buffer.view * 0))
        return asset, torch.cat(planes, dim=-1)[0, 8, 8]

    half = np.full((2, 2, 3), 1.0)
    asset, values = seen(
        Material(
            base_color=half, metallic_roughness=np.full((2, 2, 2), 0.5), base_color_factor=(0.5, 1.0, 0.25),
            roughness_factor=0.5, metallic_factor=0.4, emissive=half, emissive_factor=(0.0, 2.0, 0.0),
        )
    )  # fmt: skip
    assert asset.has_material
    torch.testing.assert_close(values, torch.tensor([0.5, 1.0, 0.25, 0.25, 0.2, 0.0, 2.0, 0.0]), atol=1e-3, rtol=0)
    dark = open_light("constant", 4).prefiltered()
    buffer = asset.gbuffer(camera)
    assert float(asset.picture(buffer, dark)[0, 8, 8, 1]) > 0.999  # what shines is bright
    asset, values = seen(None, roughness=0.3, metallic=0.7)
    assert not asset.has_material
    torch.testing.assert_close(values[3:5], torch.tensor([0.3, 0.7]), atol=1e-3, rtol=0)
