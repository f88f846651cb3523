"""Geometries: coarse grids add up, the border holds, checkpoints bring their meshes."""

from __future__ import annotations

import pytest
import torch

from renderers.isosurface.flexicubes import cube_grid
from renderers.isosurface.geometry import CubeGeometry, MeshGeometry, TetGeometry
from renderers.isosurface.tetrahedra import body_centred_grid
from sds3d.errors import ConfigError, ShapeError

MAKERS = {"cubes": (cube_grid, CubeGeometry), "tets": (body_centred_grid, TetGeometry)}


def made(kind, resolution=12, radius=0.8, **more):
    grid, geometry = (MAKERS[kind][0](resolution, radius), MAKERS[kind][1])
    return geometry(grid, grid.nodes.norm(dim=1) - 0.5, **more)


@pytest.mark.parametrize("kind", MAKERS)
def test_coarse_grids_interpolate_in_the_axes_of_the_nodes(kind):
    """A coarse grid that is linear in space adds that linear function to the distances."""
    geometry = made(kind)
    assert [grid.shape[-1] for grid in geometry.coarse] == [5]
    line = torch.linspace(-0.8, 0.8, 5)
    x, y, z = torch.meshgrid(line, line, line, indexing="ij")
    with torch.no_grad():
        before = geometry.distances()
        geometry.coarse[0].copy_((0.1 * x - 0.2 * y + 0.05 * z)[None, None])
        change = geometry.distances() - before
    inner = ~geometry.border
    wanted = geometry.nodes @ torch.tensor([0.1, -0.2, 0.05])
    assert float((change - wanted)[inner].abs().max()) < 1e-5


@pytest.mark.parametrize("kind", MAKERS)
def test_border_nodes_stay_where_and_what_they_are(kind):
    geometry = made(kind)
    with torch.no_grad():
        geometry.sdf.fill_(-1.0)
        geometry.moves.fill_(9.0)
        surface, places = geometry(), geometry.places()
    assert torch.equal(places[geometry.border], geometry.nodes[geometry.border])
    assert float((places - geometry.nodes).abs().max()) <= geometry.limit + 1e-6
    assert float(surface.vertices.abs().max()) < 0.8  # closed, within the grid
    assert bool((surface.sdf[:, 0] < 0).all() and (surface.sdf[:, 1] >= 0).all())


@pytest.mark.parametrize("kind", MAKERS)
def test_gradients_reach_every_parameter(kind):
    geometry = made(kind)
    draws = torch.Generator().manual_seed(0)
    surface = geometry()
    total = (surface.vertices * torch.randn(surface.vertices.shape, generator=draws)).sum()
    if surface.deviation is not None:
        assert surface.deviation.shape[0] < surface.vertices.shape[0]  # the middles of quadrangles are no patches
        total = total + surface.deviation.sum()
    total.backward()
    for group in geometry.groups:
        assert all(float(p.grad.abs().sum()) > 0 for p in geometry.parameters_of(group)), group
    assert sum(len(geometry.parameters_of(group)) for group in geometry.groups) == len(list(geometry.parameters()))


def test_the_final_surface_has_no_vertices_in_the_middle_of_quadrangles():
    geometry = made("cubes")
    with torch.no_grad():
        assert len(geometry(is_final=True).faces) * 2 == len(geometry().faces)


def test_a_mesh_comes_from_the_checkpoint():
    vertices, faces = torch.eye(3), torch.tensor([[0, 1, 2]])
    saved = MeshGeometry(torch.rand(7, 3), faces.repeat(4, 1) + 2, moves=True)
    loaded = MeshGeometry(vertices, faces, moves=True)
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded().vertices, saved().vertices) and loaded.faces.shape == (4, 3)
    assert isinstance(loaded.offsets, torch.nn.Parameter) and loaded.is_fixed and not made("tets").is_fixed


def test_errors():
    grid = cube_grid(5)
    with pytest.raises(ShapeError, match="one distance a node"):
        CubeGeometry(grid, torch.zeros(3))
    with pytest.raises(ConfigError, match="same sign at every node"):
        CubeGeometry(grid, torch.ones(len(grid.nodes)))()
    with pytest.raises(ConfigError, match="same sign"):
        MeshGeometry(torch.eye(3), torch.zeros(0, 3, dtype=torch.long))
