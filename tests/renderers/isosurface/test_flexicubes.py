"""FlexiCubes: closed and manifold whatever the signs, converging, differentiable, and sharp where it may learn to be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from renderers.isosurface.crossings import keep_border_outside
from renderers.isosurface.flexicubes import (
    DEFORM_LIMIT,
    activate,
    cube_grid,
    find_patches,
    flexicubes,
    place_patches,
    split_quads,
)
from renderers.isosurface.tetrahedra import body_centred_grid, marching_tetrahedra
from sds3d.errors import ConfigError, ShapeError


def plain(resolution):
    return torch.zeros(resolution**3, 21)


def signs_of_pairs(axis):
    """Return a grid whose blocks hold all 4096 sign patterns of two cubes that share a face at right angles to `axis`.

    Between the blocks is outside, so each pattern is a surface of its own.
    """
    size = [2, 2, 2]
    size[axis] = 3
    block = 4
    n = 16 * block + 1
    inside = torch.zeros(n + 1, n + 1, n + 1, dtype=torch.bool)
    for pattern in range(4096):
        place = [1 + block * (pattern >> 4 * k & 15) for k in range(3)]
        bits = torch.tensor([bool(pattern >> k & 1) for k in range(12)]).reshape(size)
        inside[tuple(slice(p, p + s) for p, s in zip(place, size, strict=True))] = bits
    return inside.reshape(-1), n


@pytest.mark.parametrize("axis", range(3))
def test_all_pairs_of_neighbouring_cubes_are_manifold(axis):
    """Two quadrangles at each edge: exhaustive, as an edge of the surface concerns two neighbouring cubes only."""
    inside, n = signs_of_pairs(axis)
    quads = find_patches(inside, n).quads
    edges = torch.cat([quads[:, [k, (k + 1) % 4]] for k in range(4)])
    forward, counts = torch.unique(edges[:, 0] * len(inside) + edges[:, 1], return_counts=True)
    assert bool((counts == 1).all())
    assert torch.equal(forward, torch.unique(edges[:, 1] * len(inside) + edges[:, 0]))


def test_without_changing_minds_some_pairs_would_not_be_manifold(monkeypatch):
    import renderers.isosurface.flexicubes as module

    monkeypatch.setattr(module, "_changed", lambda cubes, *rest: torch.zeros_like(cubes))
    inside, n = signs_of_pairs(0)
    quads = find_patches(inside, n).quads
    edges = torch.cat([quads[:, [k, (k + 1) % 4]] for k in range(4)])
    keys = edges[:, 0] * len(inside) + edges[:, 1]
    assert int(torch.unique(keys, return_counts=True)[1].max()) > 1


@pytest.mark.parametrize("case", range(0, 256))
def test_each_case_alone_is_closed_and_manifold(measured, case):
    inside = torch.zeros(4, 4, 4, dtype=torch.bool)
    bits = torch.tensor([bool(case >> k & 1) for k in range(8)]).reshape(2, 2, 2)
    inside[1:3, 1:3, 1:3] = bits.permute(2, 1, 0)  # bit 1 is x
    sdf = torch.where(inside, -1.0, 1.0).reshape(-1)
    for split in ("midpoint", "diagonal"):
        vertices, faces, _, _ = flexicubes(cube_grid(3).nodes, sdf, plain(3), 3, split)
        if case == 0:
            assert len(faces) == 0
            continue
        report = measured(vertices, faces)
        assert report.is_manifold and report.volume > 0


@pytest.mark.parametrize("split", ["midpoint", "diagonal"])
@pytest.mark.parametrize("seed", range(3))
def test_random_everything_gives_a_closed_manifold(measured, seed, split):
    grid = cube_grid(8)
    draws = torch.Generator().manual_seed(seed)
    sdf = keep_border_outside(torch.randn(len(grid.nodes), generator=draws), grid.border, grid.cell)
    moves = (torch.rand(grid.nodes.shape, generator=draws) * 2 - 1) * DEFORM_LIMIT * grid.cell
    weights = torch.randn(8**3, 21, generator=draws)
    vertices, faces, _, _ = flexicubes(grid.nodes + moves, sdf, weights, 8, split)
    report = measured(vertices, faces)
    assert report.is_manifold and bool(vertices.isfinite().all())


@pytest.mark.parametrize("split", ["midpoint", "diagonal"])
def test_a_sphere_converges_with_second_order(measured, sphere, split):
    errors = []
    for resolution in (8, 16, 32):
        grid = cube_grid(resolution)
        vertices, faces, _, _ = flexicubes(grid.nodes, sphere(grid.nodes), plain(resolution), resolution, split)
        report = measured(vertices, faces)
        assert report.is_manifold and report.euler == 2
        errors.append((1 - report.volume / sphere.volume, 1 - report.area / sphere.area))
    for coarse, fine in pairwise(errors):
        assert all(3.0 < a / b < 5.5 for a, b in zip(coarse, fine, strict=True)), errors


def test_vertices_are_means_of_zero_crossings_and_inside_their_cube(sphere):
    grid = cube_grid(8)
    sdf = sphere(grid.nodes)
    surface = find_patches(sdf < 0, 8)
    vertices, deviation = place_patches(grid.nodes, sdf, plain(8), surface)
    for row in range(0, len(vertices), 17):
        ends = surface.ends[surface.patch == row]
        a, b = sdf[ends[:, 0]], sdf[ends[:, 1]]
        points = (grid.nodes[ends[:, 0]] * b[:, None] - grid.nodes[ends[:, 1]] * a[:, None]) / (b - a)[:, None]
        assert torch.allclose(vertices[row], points.mean(dim=0), atol=1e-6)
        distance = (points - vertices[row]).norm(dim=1)
        assert float(deviation[row]) == pytest.approx(float((distance - distance.mean()).abs().mean()), abs=1e-6)
    n = 8
    lower = torch.stack([surface.patch_cube // n**2, surface.patch_cube // n % n, surface.patch_cube % n], dim=1)
    place = (vertices + 1) / grid.cell - lower
    assert float(place.min()) > -1e-5 and float(place.max()) < 1 + 1e-5


def test_weights_move_vertices_towards_what_they_favour(sphere):
    grid = cube_grid(6)
    sdf = sphere(grid.nodes)
    surface = find_patches(sdf < 0, 6)
    weights = plain(6)
    row = 0
    mine = (surface.patch == row).nonzero()[:, 0]
    weights[surface.cube[mine[0]], 8 + surface.edge[mine[0]]] = 10.0  # beta of one edge to its largest
    before, _ = place_patches(grid.nodes, sdf, plain(6), surface)
    after, _ = place_patches(grid.nodes, sdf, weights, surface)
    ends = surface.ends[mine[0]]
    a, b = sdf[ends[0]], sdf[ends[1]]
    target = (grid.nodes[ends[0]] * b - grid.nodes[ends[1]] * a) / (b - a)
    assert (after[row] - target).norm() < (before[row] - target).norm()
    alpha, beta, gamma = activate(torch.randn(50, 21) * 9)
    assert (
        alpha.min() > 0 and alpha.max() < 2 and beta.min() > 0 and beta.max() < 2 and 0 < gamma.min() < gamma.max() < 1
    )


def test_quadrangles_are_cut_by_their_weights():
    square = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 1], [0, 1, 0]])
    quad = torch.tensor([[0, 1, 2, 3]])
    for gamma, diagonal in (([0.9, 0.1, 0.9, 0.1], {0, 2}), ([0.1, 0.9, 0.1, 0.9], {1, 3})):
        vertices, faces = split_quads(square, torch.tensor(gamma), quad, "diagonal")
        assert set(faces[0].tolist()) & set(faces[1].tolist()) == diagonal and len(vertices) == 4
        vertices, faces = split_quads(square, torch.tensor(gamma), quad, "midpoint")
        one, other = gamma[0] * gamma[2], gamma[1] * gamma[3]
        assert vertices[4].tolist() == pytest.approx([0.5, 0.5, 0.5 * one / (one + other)])
        assert len(faces) == 4


def test_gradients_by_nodes_distances_and_weights():
    grid = cube_grid(3)
    draws = torch.Generator().manual_seed(4)
    sdf = torch.randn(64, generator=draws, dtype=torch.float64)
    sdf = keep_border_outside(sdf + 0.3 * sdf.sign() - 0.5, grid.border, grid.cell).detach().requires_grad_()
    nodes = grid.nodes.double().requires_grad_()
    weights = torch.randn(27, 21, generator=draws, dtype=torch.float64).requires_grad_()
    surface = find_patches(sdf < 0, 3)

    def place(n, s, w):
        vertices, deviation = place_patches(n, s, w, surface)
        gamma = activate(w.index_select(0, surface.patch_cube))[2]
        return split_quads(vertices, gamma, surface.quads, "midpoint")[0], deviation

    assert torch.autograd.gradcheck(place, (nodes, sdf, weights), fast_mode=True)


HALF = torch.tensor([0.5, 0.4, 0.45], dtype=torch.float64)
TURN = torch.linalg.qr(torch.tensor([[1.0, 0.4, -0.2], [-0.3, 1.0, 0.5], [0.2, -0.4, 1.0]]).double())[0]


def box_distance(points):
    """Signed distance to a box that is turned against the grid."""
    q = (points.double() @ TURN).abs() - HALF
    return (q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)).to(points.dtype)


def box_edges(count, draws):
    """Points on the twelve edges of that box."""
    points = (torch.rand(count, 3, generator=draws, dtype=torch.float64) * 2 - 1) * HALF
    along = torch.randint(3, (count,), generator=draws)[:, None] == torch.arange(3)
    return (torch.where(along, points, points.sign() * HALF) @ TURN.T).float()


def fit_box(extract, parameters, steps=60):
    """Return the root mean square distance from the box's edges to the surface after `steps` of Adam.

    The loss compares points of the surface with the exact distance, and the box's edges with the nearest such point.
    """
    import trimesh

    optimiser = torch.optim.Adam(parameters, lr=0.05)
    rate = torch.optim.lr_scheduler.ExponentialLR(optimiser, 0.1 ** (1 / steps))
    draws = torch.Generator().manual_seed(0)

    def errors(count):
        vertices, faces = extract()
        a, b, c = (vertices[faces[:, k]] for k in range(3))
        area = torch.linalg.cross(b - a, c - a).norm(dim=1).detach()
        face = torch.multinomial(area, count, replacement=True, generator=draws)
        mix = -torch.rand(count, 3, generator=draws).clamp_min(1e-9).log()
        mix = mix / mix.sum(dim=1, keepdim=True)
        points, edges = sum(mix[:, k, None] * (a, b, c)[k][face] for k in range(3)), box_edges(count // 10, draws)
        with torch.no_grad():
            nearest = torch.cdist(edges, points).argmin(dim=1)
        return box_distance(points).square().mean() + 0.1 * (points[nearest] - edges).square().sum(dim=1).mean()

    for _ in range(steps):
        optimiser.zero_grad()
        errors(2000).backward()
        optimiser.step()
        rate.step()
    vertices, faces = extract()
    corners, edges = vertices.detach()[faces].double().numpy(), box_edges(80, draws).double().numpy()
    nearest = [trimesh.triangles.closest_point(corners, np.broadcast_to(p, (len(corners), 3))) - p for p in edges]
    return float(np.sqrt((np.linalg.norm(nearest, axis=2).min(axis=1) ** 2).mean()))


@pytest.mark.slow
def test_sharp_edges_fit_better_than_with_tetrahedra_of_the_same_resolution():
    """With half the nodes and three fifths of the triangles, as it happens. No node moves: the weights do the work."""
    cubes, tets = cube_grid(10), body_centred_grid(10)
    sdf, weights = box_distance(cubes.nodes).requires_grad_(), plain(10).requires_grad_()
    flexible = fit_box(lambda: flexicubes(cubes.nodes, sdf, weights, 10)[:2], [sdf, weights])
    tet_sdf = box_distance(tets.nodes).requires_grad_()

    def march():
        vertices, surface = marching_tetrahedra(tets.nodes, tet_sdf, tets.tets)
        return vertices, surface.faces

    tetrahedral = fit_box(march, [tet_sdf])
    assert flexible < 0.75 * tetrahedral, (flexible, tetrahedral)


def test_errors():
    grid = cube_grid(3)
    with pytest.raises(ConfigError, match="resolution 2, but at least 3"):
        cube_grid(2)
    with pytest.raises(ShapeError, match="weights has shape"):
        flexicubes(grid.nodes, torch.zeros(64), torch.zeros(27, 20), 3)
    with pytest.raises(ShapeError, match="nodes has shape"):
        flexicubes(grid.nodes[:5], torch.zeros(64), plain(3), 3)
