"""From a field to a closed, coloured triangle mesh; levels are found by themselves."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sds3d.errors import AssetError, ConfigError
from sds3d.meshing import carve, surface
from sds3d.meshing.extinction import Grid, make_grid
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.skin import Silhouettes, choose_skin

Array = NDArray[np.float32]
Ask = Callable[[Tensor], Tensor]
_AT_A_TIME = 2**17
_COARSE = 48
"""Cells of the grid on which the object is found; the fine grid covers only its box."""
_SMOOTHING = 2


def mesh_from_density(
    density_at: Ask,
    color_at: Ask,
    radius: float,
    resolution: int,
    max_faces: int,
    device: torch.device,
    silhouettes: Silhouettes | None = None,
) -> Mesh:
    """Return a watertight mesh of a density field in [-radius, radius]^3, normals outwards, colours at the vertices.

    There is no level of the density to choose: a point is inside if it is hidden from 26 directions, as in
    `sds3d.meshing.from_splats`, and how deep the surface lies in its soft rim is decided by outlines.
    Args: density_at, color_at: points [N, 3] -> [N], [N, 3]. resolution: cells along the object's longest side.
    Raises: AssetError if nothing is opaque; ConfigError for sizes out of range.
    """
    _check(resolution, max_faces)

    def extinction_on(grid: Grid) -> Array:
        return _on_grid(density_at, grid, radius, device)

    coarse = _box_grid(radius, min(_COARSE, resolution))
    for _ in range(2):  # the second time around what the first has found
        extinction = extinction_on(coarse)
        field, _ = carve.clean(carve.hidden(extinction, coarse.cell, opaque=_opaque(extinction, coarse)))
        coarse = _around(carve.cells_inside(field), coarse, coarse.shape[0] - 7)
    extinction = extinction_on(coarse)
    skin = choose_skin(extinction, coarse, _opaque(extinction, coarse), silhouettes)
    low, high = coarse.bounds
    grid = make_grid(low, high, resolution)
    extinction = extinction_on(grid)
    field, _ = carve.clean(carve.hidden(extinction, grid.cell, skin, _opaque(extinction, grid)))
    bare = _surface(field, grid, max_faces)
    # Colours only near the surface: the rest of the grid is not looked at.
    colors = np.stack([extinction * channel for channel in _colors_on(color_at, grid, extinction, device)])
    return Mesh(bare.vertices, bare.faces, surface.surface_colors(bare, extinction, colors, grid))


def mesh_from_distance(
    distance_at: Ask, color_at: Ask, radius: float, resolution: int, max_faces: int, device: torch.device
) -> Mesh:
    """Return a watertight mesh of the zero level of a signed distance, normals outwards, colours at the vertices.

    Pieces below 2 % of the largest are left out, enclosed cavities filled. Args and errors as `mesh_from_density`.
    """
    _check(resolution, max_faces)
    grid = _box_grid(radius, min(_COARSE, resolution))
    for cells in (grid.shape[0] - 7, resolution):
        field, _ = carve.clean(_inside(distance_at, grid, radius, device))
        grid = _around(carve.cells_inside(field), grid, cells)
    field, _ = carve.clean(_inside(distance_at, grid, radius, device))
    bare = _surface(field, grid, max_faces)
    colors = _ask(color_at, bare.vertices, device).clip(0.0, 1.0)
    return Mesh(bare.vertices, bare.faces, colors)


def _inside(distance_at: Ask, grid: Grid, radius: float, device: torch.device) -> Array:
    """Return a field that is above 1 inside, per two cells of distance; `carve.clean` and `surface.extract` expect that."""
    outside = 4.0 * grid.cell
    distance = _on_grid(distance_at, grid, radius, device, outside)
    return (1.0 - distance / (2.0 * grid.cell)).clip(0.0, 2.0).astype(np.float32)


def _surface(field: Array, grid: Grid, max_faces: int) -> Mesh:
    if not (field >= 1.0).any():
        raise AssetError(_nothing())
    vertices, faces = surface.extract(field, grid)
    vertices = surface.smooth(vertices, faces, _SMOOTHING)
    vertices, faces = surface.decimate(vertices, faces, max_faces)
    return Mesh(vertices.astype(np.float32), faces, np.zeros_like(vertices, np.float32))


def _box_grid(radius: float, resolution: int) -> Grid:
    return make_grid(np.full(3, -radius), np.full(3, radius), resolution)


def _around(cells: NDArray[np.int64], grid: Grid, resolution: int) -> Grid:
    if len(cells) == 0:
        raise AssetError(_nothing())
    return make_grid(grid.to_world(cells.min(axis=0) - 1), grid.to_world(cells.max(axis=0) + 1), resolution)


def _nothing() -> str:
    return (
        "No mesh can be made: the field is transparent everywhere. A field with something opaque in it is needed: train "
        "longer, lower the weight of 'opacity', or take an earlier checkpoint."
    )


def _opaque(extinction: Array, grid: Grid) -> float:
    """Return the usual optical depth of a blocked line, or less for a field so thin that nothing would be inside."""
    return min(carve.OPAQUE, 0.5 * carve.faintest_line(extinction, grid.cell))


def _on_grid(ask: Ask, grid: Grid, radius: float, device: torch.device, outside: float = 0.0) -> Array:
    """Return [X, Y, Z] values at the nodes; `outside` the field's box, where it means nothing."""
    points = _nodes(grid)
    values = np.full(len(points), outside, np.float32)
    inside = (np.abs(points) <= radius).all(axis=1)
    values[inside] = _ask(ask, points[inside], device)
    return values.reshape(grid.shape)


def _colors_on(color_at: Ask, grid: Grid, extinction: Array, device: torch.device) -> Array:
    """Return [3, X, Y, Z] colours where there is something, 0 elsewhere."""
    wanted = extinction.ravel() > 0
    colors = np.zeros((extinction.size, 3), np.float32)
    colors[wanted] = _ask(color_at, _nodes(grid)[wanted], device)
    return np.ascontiguousarray(colors.T).reshape(3, *grid.shape)


def _nodes(grid: Grid) -> Array:
    return grid.to_world(np.stack(np.indices(grid.shape), axis=-1).reshape(-1, 3)).astype(np.float32)


def _ask(ask: Ask, points: Array, device: torch.device) -> Array:
    """Return the field's answers for all points, some at a time."""
    with torch.no_grad():
        pieces = torch.from_numpy(np.ascontiguousarray(points, np.float32)).split(_AT_A_TIME)
        return torch.cat([ask(piece.to(device)).float().cpu() for piece in pieces]).numpy()


def _check(resolution: int, max_faces: int) -> None:
    for name, value, lowest, highest in (("resolution", resolution, 16, 512), ("max_faces", max_faces, 100, 10**7)):
        if not lowest <= value <= highest:
            raise ConfigError(
                f"{name} is {value}, but {lowest} to {highest} is allowed: give a value in that range.", name
            )
