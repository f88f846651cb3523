"""Marching tetrahedra: the grid fills the cube, the surface is closed, on the zero crossings, and converges."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from renderers.isosurface.crossings import check_surface, keep_border_outside
from renderers.isosurface.tetrahedra import (
    DEFORM_LIMIT,
    body_centred_grid,
    find_triangles,
    marching_tetrahedra,
    place_vertices,
    triangle_table,
)
from sds3d.errors import ConfigError, ShapeError


def volumes(nodes, tets):
    a, b, c, d = (nodes.double()[tets[:, k].long()] for k in range(4))
    return torch.linalg.det(torch.stack([b - a, c - a, d - a], dim=1)) / 6


@pytest.mark.parametrize("resolution", [2, 3, 5])
def test_the_grid_fills_the_cube_with_tetrahedra_of_positive_volume(resolution):
    grid = body_centred_grid(resolution, radius=1.5)
    assert grid.nodes.shape[0] == (resolution + 1) ** 3 + resolution**3
    volume = volumes(grid.nodes, grid.tets)
    assert volume.min() > 0 and float(volume.sum()) == pytest.approx(27.0, rel=1e-5)
    assert torch.equal(grid.border, (grid.nodes.abs() > 1.5 - 1e-5).any(dim=1))


def test_faces_of_tetrahedra_are_shared_by_two_except_on_the_border():
    grid = body_centred_grid(3)
    faces = torch.cat([grid.tets[:, keep] for keep in ([0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3])]).sort(dim=1).values
    unique, count = torch.unique(faces, dim=0, return_counts=True)
    is_outer = grid.border[unique.long()].all(dim=1)
    assert set(count.tolist()) == {1, 2} and bool(((count == 1) <= is_outer).all())


def test_no_tetrahedron_can_turn_inside_out_within_the_limit():
    """The volume is linear in each corner, so its least value is at the corners of the boxes the nodes may move in."""
    grid = body_centred_grid(4)
    inner = grid.tets[(~grid.border[grid.tets.long()]).all(dim=1)][:1].long()[0]
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 12).reshape(-1, 4, 3).double()
    moved = grid.nodes[inner].double() + DEFORM_LIMIT * grid.cell * signs
    volume = torch.linalg.det(moved[:, 1:] - moved[:, :1]) / 6
    assert float(volume.min()) > -1e-9 * grid.cell**3
    beyond = grid.nodes[inner].double() + 1.1 * DEFORM_LIMIT * grid.cell * signs
    assert float(torch.linalg.det(beyond[:, 1:] - beyond[:, :1]).min()) < 0


def test_every_case_separates_inside_from_outside():
    _, count = triangle_table()
    assert count.tolist() == [[0, 1, 1, 2, 1, 2, 2, 1, 1, 2, 2, 1, 2, 1, 1, 0][k] for k in range(16)]
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    tets = torch.tensor([[0, 1, 2, 3]], dtype=torch.int32)
    for case in range(1, 15):
        sdf = torch.tensor([-1.0 if case >> k & 1 else 1.0 for k in range(4)])
        vertices, surface = marching_tetrahedra(corners, sdf, tets)
        a, b, c = (vertices[surface.faces[:, k]] for k in range(3))
        normal = torch.linalg.cross(b - a, c - a)
        offset = ((corners[None] - a[:, None]) * normal[:, None]).sum(dim=2)  # side of each corner, per triangle
        assert surface.faces.shape[0] == count[case] and bool((offset * sdf > 0).all())


def test_a_sphere_is_closed_manifold_and_converges_with_second_order(measured, sphere):
    errors = []
    for resolution in (8, 16, 32):
        grid = body_centred_grid(resolution)
        vertices, surface = marching_tetrahedra(grid.nodes, sphere(grid.nodes), grid.tets)
        report = measured(vertices, surface.faces)
        assert report.is_manifold and report.euler == 2
        errors.append((abs(report.volume / sphere.volume - 1), abs(report.area / sphere.area - 1)))
    for coarse, fine in pairwise(errors):
        assert all(3.0 < a / b < 5.5 for a, b in zip(coarse, fine, strict=True)), errors


@pytest.mark.parametrize("seed", range(3))
def test_random_signs_and_moves_give_a_closed_manifold(measured, seed):
    grid = body_centred_grid(5)
    draws = torch.Generator().manual_seed(seed)
    sdf = keep_border_outside(torch.randn(len(grid.nodes), generator=draws), grid.border, grid.cell)
    moves = (torch.rand(grid.nodes.shape, generator=draws) * 2 - 1) * DEFORM_LIMIT * grid.cell
    moves[grid.border] = 0
    assert volumes(grid.nodes + moves, grid.tets).min() > 0
    vertices, surface = marching_tetrahedra(grid.nodes + moves, sdf, grid.tets)
    report = measured(vertices, surface.faces)
    assert report.is_manifold and report.volume > 0


def test_vertices_lie_on_the_linear_zero_crossings(sphere):
    grid = body_centred_grid(6)
    sdf = sphere(grid.nodes).double()
    vertices, surface = marching_tetrahedra(grid.nodes.double(), sdf, grid.tets)
    first, second = surface.crossings.unbind(dim=1)
    assert bool((sdf[first] < 0).all() and (sdf[second] >= 0).all())
    ends = grid.nodes.double()[surface.crossings]
    share = (vertices - ends[:, 0]).norm(dim=1) / (ends[:, 1] - ends[:, 0]).norm(dim=1)
    assert float((sdf[first] + share * (sdf[second] - sdf[first])).abs().max()) < 1e-7
    between = torch.linalg.cross(vertices - ends[:, 0], ends[:, 1] - ends[:, 0])
    assert float(between.abs().max()) < 1e-12


def test_gradients_by_distances_and_nodes():
    grid = body_centred_grid(2)
    draws = torch.Generator().manual_seed(1)
    sdf = torch.randn(len(grid.nodes), generator=draws, dtype=torch.float64)
    sdf = (sdf + 0.3 * sdf.sign()).requires_grad_()
    nodes = grid.nodes.double().requires_grad_()
    crossings = find_triangles(sdf < 0, grid.tets).crossings[:40]
    assert torch.autograd.gradcheck(lambda n, s: place_vertices(n, s, crossings), (nodes, sdf))


def test_a_node_exactly_on_the_surface_counts_as_outside(measured):
    grid = body_centred_grid(4)
    vertices, surface = marching_tetrahedra(grid.nodes, grid.nodes.abs().amax(dim=1) - 0.5, grid.tets)
    report = measured(vertices, surface.faces)
    assert report.is_closed and report.volume == pytest.approx(1.0, abs=1e-5) and bool(vertices.isfinite().all())


def test_the_border_stays_outside():
    grid = body_centred_grid(3)
    sdf = keep_border_outside(torch.full((len(grid.nodes),), -1.0), grid.border, grid.cell)
    assert bool((sdf[grid.border] > 0).all()) and bool((sdf[~grid.border] == -1).all())


def test_positions_need_no_data():
    """With the triangles known, placing them has no branch on values: it runs on tensors that hold none."""
    grid = body_centred_grid(4)
    surface = find_triangles(grid.nodes.norm(dim=1) < 0.5, grid.tets)
    nodes = grid.nodes.to("meta").requires_grad_()
    vertices = place_vertices(nodes, torch.empty(len(nodes), device="meta"), surface.crossings.to("meta"))
    vertices.sum().backward()
    assert vertices.shape == (len(surface.crossings), 3) and nodes.grad.shape == nodes.shape


def test_errors():
    grid = body_centred_grid(2)
    with pytest.raises(ConfigError, match="resolution 1, but at least 2"):
        body_centred_grid(1)
    with pytest.raises(ShapeError, match="sdf has shape"):
        marching_tetrahedra(grid.nodes, torch.zeros(3), grid.tets)
    with pytest.raises(ShapeError, match="tets has shape"):
        marching_tetrahedra(grid.nodes, torch.zeros(len(grid.nodes)), grid.tets[:, :3])
    _, surface = marching_tetrahedra(grid.nodes, torch.ones(len(grid.nodes)), grid.tets)
    with pytest.raises(ConfigError, match="same sign at every node"):
        check_surface(surface.faces)
