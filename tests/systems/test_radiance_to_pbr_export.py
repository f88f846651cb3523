"""A cloud of one known material becomes files that say so: textures, splats, and what other programs read of them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch

from renderers.gaussians.materials import discs
from sds3d.config.materials import MaterialsConfig
from sds3d.export.mesh import write_mesh
from sds3d.meshing.bake import find_texels
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.unwrap import unwrap
from sds3d.shading.colour import srgb_from_linear
from systems import radiance_to_pbr_export
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_export import project, splats_of, tangent_normals, textured_mesh, write_splats

BASE, ROUGHNESS, METALLIC = (0.6, 0.3, 0.1), 0.35, 0.8
SIZE = 128


def ball_mesh(subdivisions: int = 1) -> Mesh:
    """Return a ball of radius 0.5 with normals outwards."""
    import trimesh

    ball = trimesh.creation.icosphere(subdivisions=subdivisions, radius=0.5)
    vertices = np.asarray(ball.vertices, np.float32)
    return Mesh(vertices, np.asarray(ball.faces), np.zeros_like(vertices))


def ball_cloud() -> RadianceToPbr:
    """Return flat, opaque Gaussians on the vertices and faces of that ball."""
    mesh = ball_mesh(2)
    middle = mesh.vertices[mesh.faces].mean(axis=1)
    points = torch.from_numpy(np.concatenate([mesh.vertices, middle]))
    normals = torch.nn.functional.normalize(points, dim=1)
    config = MaterialsConfig.model_validate(
        {"name": "ball", "title": "ball", "cloud": {"backend": "reference"}, "shading": {"light_resolution": 4}}
    )
    return RadianceToPbr(config, discs(0.5 * normals, normals, torch.full_like(points, 0.5), 0.95, 0.1))


@pytest.fixture(scope="module")
def system() -> RadianceToPbr:
    made = ball_cloud()
    made.cloud.fill_("base_colour", torch.tensor(BASE).expand(made.cloud.count, 3))
    for name, value in (("roughness", ROUGHNESS), ("metallic", METALLIC)):
        made.cloud.fill_(name, value)
    return made


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return unwrap(ball_mesh(), SIZE, method="cells").mesh


def test_pictures_are_projected_onto_the_surface(system: RadianceToPbr) -> None:
    from sds3d.datasets.rendered import spread

    normals = torch.nn.functional.normalize(torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    found, weight = project(system, 0.5 * normals, normals, spread(8, 32, -60.0, 80.0))
    seen = weight[:, 0] > 0.2
    assert int(seen.sum()) > 12
    torch.testing.assert_close(found[seen, :3], torch.tensor(BASE).expand(int(seen.sum()), 3), atol=0.01, rtol=0)
    torch.testing.assert_close(found[seen, 3], torch.full((int(seen.sum()),), ROUGHNESS), atol=0.01, rtol=0)
    cosine = (torch.nn.functional.normalize(found[:, 5:], dim=1) * normals).sum(dim=1)[seen]
    assert float(cosine.mean()) > 0.97
    _, weight = project(system, 0.2 * normals, normals, spread(4, 32))
    assert float(weight.max()) == 0.0  # behind what is seen


def test_files_say_what_the_cloud_is(
    system: RadianceToPbr, mesh: Mesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M30: roughness is green, metalness blue, base colour sRGB; a foreign reader finds all four pictures."""
    import pygltflib
    from PIL import Image

    monkeypatch.setattr(radiance_to_pbr_export, "VIEWS", 8)
    monkeypatch.setattr(radiance_to_pbr_export, "SIZE", 40)
    made = textured_mesh(system, mesh, SIZE)
    path = write_mesh(tmp_path / "ball.glb", made)
    file = pygltflib.GLTF2().load(str(path))
    surface = file.materials[0]
    pbr = surface.pbrMetallicRoughness
    assert pbr.metallicFactor == pbr.roughnessFactor == 1.0 and pbr.baseColorFactor == [1.0, 1.0, 1.0, 1.0]

    def picture(texture: object) -> np.ndarray:
        view = file.bufferViews[file.images[file.textures[texture.index].source].bufferView]  # type: ignore[attr-defined]
        data = file.binary_blob()[view.byteOffset : view.byteOffset + view.byteLength]
        return np.asarray(Image.open(io.BytesIO(data))) / 255.0

    expected = srgb_from_linear(torch.tensor(BASE)).tolist()
    assert picture(pbr.baseColorTexture).mean(axis=(0, 1)).tolist() == pytest.approx(expected, abs=0.02)
    packed = picture(pbr.metallicRoughnessTexture).mean(axis=(0, 1))
    assert packed[1] == pytest.approx(ROUGHNESS, abs=0.02) and packed[2] == pytest.approx(METALLIC, abs=0.02)
    bumps = 2.0 * picture(surface.normalTexture) - 1.0
    assert bumps[..., 2].mean() > 0.9 and abs(bumps[..., :2].mean()) < 0.1
    assert picture(surface.occlusionTexture).min() > 0.99  # nothing was baked


def test_tangent_frames_on_a_flat_square() -> None:
    """u runs along +X and v along +Y of a square that faces +Z: a normal tilted to +X has a red bump, to +Y a green one."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    square = Mesh(vertices, faces, np.zeros_like(vertices), vertices[:, :2], faces)
    texels = find_texels(square, 8)
    up = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(texels.rows), 3))
    for world, local in (((0.6, 0, 0.8), (0.6, 0, 0.8)), ((0, 0.6, 0.8), (0, 0.6, 0.8)), ((0, 0, -1), (0, 0, 1))):
        found = tangent_normals(square, texels, up, np.broadcast_to(np.array(world), up.shape))
        np.testing.assert_allclose(found, np.broadcast_to(local, up.shape), atol=1e-6)
    mirrored = Mesh(vertices, faces, np.zeros_like(vertices), vertices[:, :2] * [-1, 1] + [1, 0], faces)
    found = tangent_normals(mirrored, find_texels(mirrored, 8), up, np.broadcast_to((0.6, 0, 0.8), up.shape))
    np.testing.assert_allclose(found, np.broadcast_to((-0.6, 0, 0.8), up.shape), atol=1e-6)


def test_splats_with_materials(system: RadianceToPbr, tmp_path: Path) -> None:
    from sds3d.export.material_splats import read_material_splats

    splats, materials = read_material_splats(write_splats(tmp_path / "s.ply", system))
    np.testing.assert_allclose(materials.base_colour, np.broadcast_to(np.float32(BASE), (len(splats), 3)), atol=1e-5)
    np.testing.assert_array_equal(splats.means, splats_of(system)[0].means)
