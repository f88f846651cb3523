"""Repairs: each defect is made on purpose, counted, and gone afterwards."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from sds3d.errors import AssetError, ConfigError
from sds3d.meshing import repair as module
from sds3d.meshing import topology
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.repair import Repairs, decimate, repair
from sds3d.meshing.surface import is_closed, signed_volume


def grey(vertices: object, faces: object) -> Mesh:
    places = np.asarray(vertices, np.float32)
    return Mesh(places, np.asarray(faces), np.full(places.shape, 0.5))


def boxes(*placed: tuple[float, float]) -> Mesh:
    """Boxes of the given sizes at the given x, each turned inside out if its size is negative."""
    parts = []
    for size, x in placed:
        part = trimesh.creation.box([abs(size)] * 3)
        part.apply_translation([x, 0, 0])
        parts.append((part.vertices, part.faces if size > 0 else part.faces[:, ::-1]))
    faces = [faces + 8 * index for index, (_, faces) in enumerate(parts)]
    return grey(np.concatenate([vertices for vertices, _ in parts]), np.concatenate(faces))


def test_a_sound_mesh_stays_as_it_is(box: Mesh) -> None:
    mesh, done = repair(box)
    assert done == Repairs() and done.line == "nothing to repair"
    assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(1.0)


def test_triangle_soup_is_joined_and_its_colours_averaged(box: Mesh) -> None:
    corners = box.vertices[box.faces].reshape(-1, 3)
    colors = np.random.default_rng(0).uniform(size=corners.shape)
    mesh, done = repair(Mesh(corners, np.arange(36).reshape(-1, 3), colors))
    assert done == Repairs(merged_vertices=28) and is_closed(mesh.faces)
    at = (corners == mesh.vertices[0]).all(axis=1)
    np.testing.assert_allclose(mesh.colors[0], colors[at].mean(axis=0), atol=1e-6)
    signed = np.where(corners == 0.0, -0.0, corners)
    assert repair(Mesh(signed, np.arange(36).reshape(-1, 3), colors))[1].merged_vertices == 28


def test_nan_corners_cost_their_faces_only(box: Mesh) -> None:
    vertices = box.vertices.copy()
    vertices[3, 1] = np.nan
    mesh, done = repair(Mesh(vertices, box.faces, np.full((8, 3), np.nan)))
    lost = int((box.faces == 3).any(axis=1).sum())
    assert done.broken_faces == lost and len(mesh.faces) == 12 - lost and len(mesh.vertices) == 7
    assert np.isfinite(mesh.vertices).all() and (mesh.colors == 0.5).all()


def test_empty_and_double_faces_go(box: Mesh) -> None:
    more = [[0, 0, 1], [2, 2, 2], box.faces[0][[1, 2, 0]], box.faces[5][::-1]]
    mesh, done = repair(Mesh(box.vertices, np.concatenate([box.faces, more]), box.colors))
    assert (done.empty_faces, done.double_faces) == (2, 2) and is_closed(mesh.faces)
    needle = grey([[0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0]], [[0, 1, 2], [0, 1, 3]])
    assert repair(needle)[1].empty_faces == 1


@pytest.mark.parametrize("turned", [[0], [1, 5, 7], list(range(12)), list(range(11))])
def test_faces_are_turned_outwards(box: Mesh, turned: list[int]) -> None:
    faces = box.faces.copy()
    faces[turned] = faces[turned][:, ::-1]
    mesh, done = repair(Mesh(box.vertices, faces, box.colors))
    assert done.flipped_faces == len(turned) and signed_volume(mesh.vertices, mesh.faces) == pytest.approx(1.0)


def test_texture_coordinates_turn_with_their_faces(box: Mesh) -> None:
    uvs = box.vertices[:, :2] + 0.5
    mesh, _ = repair(Mesh(box.vertices, box.faces[:, ::-1], box.colors, uvs, box.faces[:, ::-1]))
    assert mesh.uvs is not None
    np.testing.assert_allclose(mesh.uvs[mesh.uv_faces], mesh.vertices[mesh.faces][..., :2] + 0.5)


@pytest.mark.parametrize("sizes", [(4, 1), (4, -1), (-4, 1), (-4, -1)])
def test_cavities_look_inwards_and_neighbours_outwards(sizes: tuple[int, int]) -> None:
    """A box inside another is a cavity (64 - 1), a box beside it is not (64 + 1); a box in a cavity is solid."""
    inside, _ = repair(boxes((sizes[0], 0), (sizes[1], 0.2)))
    assert signed_volume(inside.vertices, inside.faces) == pytest.approx(63.0, rel=1e-5)
    beside, _ = repair(boxes((sizes[0], 0), (sizes[1], 5)))
    assert signed_volume(beside.vertices, beside.faces) == pytest.approx(65.0, rel=1e-5)
    nested, _ = repair(boxes((sizes[0], 0), (3 * sizes[1], 0.1), (1, 0.2)))
    assert signed_volume(nested.vertices, nested.faces) == pytest.approx(64 - 27 + 1, rel=1e-5)


def test_pieces_that_overlap_are_no_cavities() -> None:
    """A box that begins inside another and sticks out on one side looks outwards, however its faces are listed."""
    body, arm = boxes((2, 0)), boxes((1, 0.6))
    assert arm.vertices.max() > body.vertices.max() and arm.vertices.min() > body.vertices.min()
    for turn in range(len(arm.faces)):
        both = np.concatenate([body.faces, np.roll(arm.faces, turn, axis=0) + len(body.vertices)])
        mesh, done = repair(grey(np.concatenate([body.vertices, arm.vertices]), both))
        assert done.flipped_faces == 0
        assert signed_volume(mesh.vertices, mesh.faces) == pytest.approx(8 + 1, rel=1e-5)


def test_open_pieces_look_away_from_their_middle_and_flat_ones_stay(box: Mesh) -> None:
    cup = box.faces[2:, ::-1]
    mesh, done = repair(Mesh(box.vertices, cup, box.colors))
    assert done.flipped_faces == 10 and done.open_edges == 4
    np.testing.assert_array_equal(mesh.faces, cup[:, ::-1])
    sheet = grey([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 2, 1], [0, 3, 2]])
    assert repair(sheet)[1] == Repairs(open_edges=4)


def test_moebius_strips_are_left_alone() -> None:
    count = 12
    turn, half = np.arange(count) * 2 * np.pi / count, np.arange(count) * np.pi / count
    rows = []
    for side in (-0.3, 0.3):
        radius = 1 + side * np.cos(half)
        rows.append(np.stack([radius * np.cos(turn), radius * np.sin(turn), side * np.sin(half)], axis=1))
    faces = []
    for k in range(count):
        a, b, c, d = (k, k + 1, count + k, count + k + 1) if k < count - 1 else (k, count, count + k, 0)
        faces += [[a, b, c], [b, d, c]]
    _, done = repair(grey(np.concatenate(rows), faces))
    assert done.one_sided_pieces == 1 and done.flipped_faces == 0


def test_edges_of_three_faces_and_touching_corners_are_cut() -> None:
    """A fin on a box, and two boxes that share one corner: afterwards no edge has three faces, no corner two sheets."""
    fin = boxes((1, 0))
    a, b = fin.faces[0][:2]
    tip = len(fin.vertices)
    mesh, done = repair(grey(np.concatenate([fin.vertices, [[3, 3, 3]]]), np.concatenate([fin.faces, [[a, b, tip]]])))
    _, uses = np.unique(topology._edges(mesh.faces)[2], return_counts=True)
    assert done.cut_edges == 1 and uses.max() == 2
    assert len(mesh.faces) == 13 and len(np.unique(mesh.vertices, axis=0)) == 9
    touching = boxes((1, 0), (1, 1))
    touching = grey(touching.vertices + np.where(np.arange(16)[:, None] < 8, 0.0, [0.0, 1.0, 1.0]), touching.faces)
    mesh, done = repair(touching)
    assert done.merged_vertices == 1 and done.cut_edges == 0 and len(mesh.vertices) == 16 and is_closed(mesh.faces)


def test_small_pieces_go_on_request() -> None:
    mesh = boxes((2, 0), (0.2, 5), (1, 9))
    assert len(repair(mesh)[0].faces) == 36
    kept, done = repair(mesh, keep_share=0.1)
    assert done.small_pieces == 1 and len(kept.faces) == 24 and len(kept.vertices) == 16


def test_holes_are_filled_on_request(box: Mesh) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    away = (ball.faces == 0).any(axis=1) | (ball.faces == 40).any(axis=1)
    assert away.sum() == 11
    mesh = grey(ball.vertices, ball.faces[~away])
    assert repair(mesh)[1].open_edges == 11
    closed, done = repair(mesh, fill_holes=True)
    assert (done.filled_holes, done.open_edges) == (2, 0) and is_closed(closed.faces)
    assert signed_volume(closed.vertices, closed.faces) == pytest.approx(ball.volume, rel=0.02)
    assert repair(mesh, fill_holes=True, largest_hole=5)[1].filled_holes == 1
    lid = Mesh(box.vertices, box.faces[2:], box.colors, box.vertices[:, :2] + 0.5, box.faces[2:])
    closed, _ = repair(lid, fill_holes=True)
    assert is_closed(closed.faces) and closed.uv_faces is not None and closed.uv_faces.shape == closed.faces.shape


def test_too_many_faces_are_decimated_and_keep_their_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    ball = trimesh.creation.icosphere(subdivisions=4)
    colored = Mesh(ball.vertices, ball.faces, ball.vertices * 0.5 + 0.5)
    mesh, done = repair(colored, max_faces=500)
    assert len(mesh.faces) <= 510 and done.decimated_faces == len(ball.faces) - len(mesh.faces)
    assert np.abs(mesh.colors - (mesh.vertices * 0.5 + 0.5)).max() < 0.05
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1.0, atol=0.03)
    assert decimate(mesh, 10**6) is mesh
    monkeypatch.setattr(module, "LIMIT", 1000)
    with pytest.raises(AssetError, match="has 5120 faces, but at most 1000 are read: reduce it first"):
        repair(colored, max_faces=500)


def test_what_cannot_be_repaired_is_said(box: Mesh) -> None:
    with pytest.raises(AssetError, match=r"no usable face \(nothing to repair\)"):
        repair(Mesh(box.vertices, box.faces[:0], box.colors))
    with pytest.raises(AssetError, match=r"no usable face \(12 broken faces\)"):
        repair(Mesh(box.vertices * np.nan, box.faces, box.colors))
    with pytest.raises(AssetError, match=r"no usable face \(7 merged vertices, 12 empty faces\)"):
        repair(Mesh(box.vertices * 0, box.faces, box.colors))
    with pytest.raises(ConfigError, match="max_faces is 5, but 100 to 12000000"):
        repair(box, max_faces=5)
    with pytest.raises(ConfigError, match="keep_share is 2, but 0 to 1"):
        repair(box, keep_share=2)
