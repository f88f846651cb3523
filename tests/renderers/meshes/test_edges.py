"""Neighbours across edges, and welding."""

from __future__ import annotations

import torch

from renderers.meshes.edges import neighbours, weld


def brute_force(faces):
    rows = faces.tolist()
    table = torch.full(faces.shape, -1)
    for f, face in enumerate(rows):
        for k in range(3):
            ends = {face[(k + 1) % 3], face[(k + 2) % 3]}
            others = [g for g, other in enumerate(rows) if g != f and ends <= set(other)]
            table[f, k] = others[0] if others else -1
    return table


def test_neighbours_of_closed_and_open_meshes(sphere):
    _, faces = sphere(1)
    assert torch.equal(neighbours(faces), brute_force(faces)) and neighbours(faces).min() >= 0
    hole = faces[7:]
    assert torch.equal(neighbours(hole), brute_force(hole)) and (neighbours(hole) < 0).sum() > 0


def test_faces_of_a_crowded_edge_are_paired_and_an_odd_one_stays_alone():
    faces = torch.tensor([[0, 1, 2], [1, 0, 3], [0, 1, 4]])
    across = neighbours(faces)[:, 2]
    assert across.tolist() == [1, 0, -1]
    across = neighbours(torch.cat([faces, torch.tensor([[0, 1, 5]])]))[:, 2]
    assert across.tolist() == [1, 0, 3, 2]


def test_no_faces_have_no_neighbours():
    assert neighbours(torch.zeros(0, 3, dtype=torch.int64)).shape == (0, 3)


def test_welding_joins_equal_positions(sphere):
    vertices, faces = sphere(1)
    soup = vertices[faces].reshape(-1, 3)
    rows, welded = weld(soup, torch.arange(len(soup)).view(-1, 3))
    assert len(rows) == len(vertices)
    assert torch.equal(soup[rows][welded], vertices[faces])
    assert (neighbours(torch.arange(len(soup)).view(-1, 3)) < 0).all() and (neighbours(welded) >= 0).all()
