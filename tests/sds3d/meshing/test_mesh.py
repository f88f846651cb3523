"""Meshes with textures: shapes, defaults, seams."""

from __future__ import annotations

import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.meshing.from_toybox import mesh_from_toy
from sds3d.meshing.mesh import Material, Mesh, split_at_seams
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
GREY = np.full((4, 3), 0.5)
UVS = np.array([[0, 0], [1, 0], [1, 1], [0, 1], [0.5, 0.5]], np.float32)
UV_FACES = np.array([[0, 1, 2], [4, 2, 3]])


def test_a_seam_doubles_only_the_vertices_on_it() -> None:
    mesh = Mesh(SQUARE, FACES, GREY, UVS, UV_FACES)
    vertex, uvs, faces = split_at_seams(mesh)
    assert sorted(vertex.tolist()) == [0, 0, 1, 2, 3]
    np.testing.assert_array_equal(vertex[faces], FACES)
    np.testing.assert_array_equal(uvs[faces], UVS[UV_FACES])
    with pytest.raises(ShapeError, match="unwrap the mesh first"):
        split_at_seams(Mesh(SQUARE, FACES, GREY))


def test_a_material_is_not_metal_unless_it_says_so() -> None:
    plain = Material(base_color=np.zeros((2, 4, 3), np.uint8))
    assert (plain.metallic_factor, plain.roughness_factor, plain.emissive_factor) == (0.0, 1.0, (0.0, 0.0, 0.0))
    full = Material(metallic_roughness=np.ones((2, 2, 2)), emissive=np.ones((2, 2, 3)), occlusion=np.full((2, 2), 2.0))
    assert (full.metallic_factor, full.roughness_factor, full.emissive_factor) == (1.0, 1.0, (1.0, 1.0, 1.0))
    assert full.textures.keys() == {"metallic_roughness", "occlusion", "emissive"}
    assert full.occlusion is not None and full.occlusion.shape == (2, 2, 1) and full.occlusion.max() == 1.0


def test_bytes_become_fractions() -> None:
    picture = np.array([[[0, 51, 255]]], np.uint8)
    material = Material(base_color=picture)
    assert material.base_color is not None and material.base_color.dtype == np.float32
    np.testing.assert_allclose(material.base_color[0, 0], [0, 0.2, 1], atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"uvs": UVS}, "both uvs and uv_faces, or neither"),
        ({"uvs": UVS[:, :1], "uv_faces": UV_FACES}, r"Mesh.uvs has shape \[5, 1\], but \[count, 2\]"),
        ({"uvs": UVS, "uv_faces": UV_FACES[:1]}, r"Mesh.uv_faces has shape \[1, 3\], but \[2, 3\] \(as faces\)"),
        ({"uvs": UVS[:4], "uv_faces": UV_FACES}, "more than 4 rows"),
        ({"material": Material(base_color=np.zeros((2, 2, 3)))}, "because the material has textures"),
    ],
)
def test_shapes_that_do_not_fit_are_said(changes: dict, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        Mesh(SQUARE, FACES, GREY, **changes)
    with pytest.raises(ShapeError, match=r"Material.base_color has shape \[2, 2, 4\], but \[height, width, 3\]"):
        Material(base_color=np.zeros((2, 2, 4)))


def test_toys_become_meshes_of_the_same_surface() -> None:
    toy = build(Description(noun="mug", color="red"), np.random.default_rng(0))
    mesh = mesh_from_toy(toy)
    assert len(mesh.vertices) < 0.3 * 3 * len(toy.corners)
    np.testing.assert_allclose(mesh.vertices[mesh.faces], toy.corners, atol=1e-4)
    np.testing.assert_allclose(mesh.colors[mesh.faces[:, 0]], toy.colors, atol=1e-6)
