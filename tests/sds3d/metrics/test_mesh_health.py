"""Meshes whose faults are known, made by trimesh or by hand."""

import numpy as np
import pytest
import trimesh

from sds3d.meshing.mesh import Material, Mesh
from sds3d.metrics.mesh_health import mesh_health


def made(vertices: np.ndarray, faces: np.ndarray, **rest: object) -> Mesh:
    return Mesh(np.asarray(vertices), np.asarray(faces), np.full((len(vertices), 3), 0.5), **rest)


@pytest.fixture
def box() -> Mesh:
    solid = trimesh.creation.box((1.0, 2.0, 3.0))
    return made(solid.vertices, solid.faces)


def test_a_box_is_whole(box: Mesh) -> None:
    health = mesh_health(box)
    assert health.is_watertight and (health.components, health.flipped_faces, health.open_edges) == (1, 0, 0)
    assert (health.area, health.volume) == pytest.approx((22.0, 6.0))
    assert health.texture_share is None


def test_vertices_split_at_seams_are_no_holes(box: Mesh) -> None:
    split = made(box.vertices[box.faces].reshape(-1, 3), np.arange(36).reshape(-1, 3))
    health = mesh_health(split)
    assert health.is_watertight and health.vertices == 36 and health.components == 1


def test_a_missing_face_a_turned_face_an_inside_out_box(box: Mesh) -> None:
    opened = mesh_health(made(box.vertices, box.faces[1:]))
    assert not opened.is_watertight and opened.open_edges == 3 and opened.volume is None
    faces = box.faces.copy()
    faces[4] = faces[4, ::-1]
    turned = mesh_health(made(box.vertices, faces))
    assert not turned.is_watertight and turned.flipped_faces == 1
    inside_out = mesh_health(made(box.vertices, box.faces[:, ::-1]))
    assert inside_out.is_watertight and inside_out.flipped_faces == 12 and inside_out.volume == pytest.approx(-6.0)


def test_two_balls_are_two_pieces_and_a_fin_is_crowded(box: Mesh) -> None:
    ball = trimesh.creation.icosphere(1)
    two = np.concatenate([ball.vertices, 0.5 * ball.vertices + [5.0, 0.0, 0.0]])
    health = mesh_health(made(two, np.concatenate([ball.faces, ball.faces + len(ball.vertices)])))
    assert health.components == 2 and health.is_watertight and health.largest_share == pytest.approx(0.8)
    fin = made(np.concatenate([box.vertices, [[9.0, 9.0, 9.0]]]), np.concatenate([box.faces, [[*box.faces[0, :2], 8]]]))
    assert mesh_health(fin).crowded_edges == 1 and not mesh_health(fin).is_watertight


def test_faces_without_area_are_counted_and_left_out(box: Mesh) -> None:
    worse = made(box.vertices, np.concatenate([box.faces, [[0, 0, 1], [1, 1, 1]]]))
    health = mesh_health(worse)
    assert health.empty_faces == 2 and health.is_watertight and health.faces == 14


def test_texture_share_is_the_area_in_the_picture() -> None:
    uvs = np.array([[0, 0], [0.5, 0], [0.5, 0.5], [0, 0.5]])
    material = Material(base_color=np.zeros((4, 4, 3)))
    square = made([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], uvs=uvs,
                  uv_faces=np.array([[0, 1, 2], [0, 2, 3]]), material=material)  # fmt: skip
    health = mesh_health(square)
    assert health.texture_share == pytest.approx(0.25) and health.textured_faces == 1.0
    assert not health.is_watertight and health.open_edges == 4


def test_a_mesh_without_faces_has_an_answer() -> None:
    health = mesh_health(made(np.zeros((3, 3)), np.zeros((0, 3), int)))
    assert not health.is_watertight and health.components == 0 and health.area == 0.0
