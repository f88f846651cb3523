"""A closed, coloured triangle mesh from Gaussian splats."""

from __future__ import annotations

import numpy as np

from sds3d.errors import AssetError, ConfigError
from sds3d.export.splats import Splats
from sds3d.meshing import carve, surface
from sds3d.meshing.extinction import Array, Grid, deposit, make_grid, visible
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.skin import Silhouettes, choose_skin

_COARSE = 64
"""Most cells of the grids on which the object is found and the skin chosen; the last grid is the fine one."""


def mesh_from_splats(
    splats: Splats,
    resolution: int = 96,
    target_faces: int = 20000,
    silhouettes: Silhouettes | None = None,
    smoothing: int = 4,
) -> Mesh:
    """Return a watertight mesh in the world frame with colours at its vertices and normals outwards.

    The splats become an absorbing volume on a grid fitted to the object (`extinction.deposit`); a point is inside if it
    is hidden from 26 directions (`carve.hidden`); marching cubes, light Taubin smoothing and quadric decimation follow;
    each vertex takes the colour seen there (`surface.surface_colors`).

    Args:
        splats: N Gaussians, at least one drawn (opacity above 1/255).
        resolution: cells along the longest side of the object, 16 to 512; time and memory grow with its cube.
        target_faces: about the largest number of triangles, at least 100.
        silhouettes: alpha images of the splats; if given, the surface is laid in their soft rim where the outlines
            agree best with alpha 0.5; otherwise with that of the volume seen along the three axes. Better with.
        smoothing: rounds of Taubin smoothing, 0 for none.

    Raises: AssetError if no Gaussian is visible; ConfigError, ShapeError for wrong arguments.
    Limits: view-dependent colour (shN) is left out; details finer than a cell are lost; pieces below 2 % of the largest
        one count as floaters; cavities that no direction sees into are filled.
    """
    _check(resolution, target_faces, smoothing)
    drawn = _drawn(splats)
    coarse = _find_object(drawn, min(_COARSE, resolution))
    extinction, _ = deposit(drawn, coarse, with_colors=False)
    skin = choose_skin(extinction, coarse, _opaque(extinction, coarse), silhouettes)
    low, high = coarse.bounds
    grid = make_grid(low, high, resolution)
    extinction, colors = deposit(drawn, grid, with_colors=True)
    field, _ = carve.clean(carve.hidden(extinction, grid.cell, skin, _opaque(extinction, grid)))
    vertices, faces = surface.extract(field, grid)
    vertices = surface.smooth(vertices, faces, smoothing)
    vertices, faces = surface.decimate(vertices, faces, target_faces)
    bare = Mesh(vertices.astype(np.float32), faces, np.zeros_like(vertices, np.float32))
    return Mesh(bare.vertices, bare.faces, surface.surface_colors(bare, extinction, colors, grid))


def _find_object(drawn: Splats, resolution: int) -> Grid:
    """Return a grid of `resolution` around what is inside, found by zooming in with coarse grids.

    Haze and far floaters may fill a box many times the object's; each zoom leaves them out.
    """
    spread = 2.0 * np.exp(drawn.log_scales.max(axis=1, keepdims=True))
    low, high = (drawn.means - spread).min(axis=0), (drawn.means + spread).max(axis=0)
    for _ in range(4):
        grid = make_grid(low, high, resolution)
        extinction, _ = deposit(drawn, grid, with_colors=False)
        field, _ = carve.clean(carve.hidden(extinction, grid.cell, opaque=_opaque(extinction, grid)))
        inside = carve.cells_inside(field)
        if len(inside) == 0:
            break
        size = (high - low).max()
        low, high = grid.to_world(inside.min(axis=0) - 1), grid.to_world(inside.max(axis=0) + 1)
        if (high - low).max() > 0.7 * size:
            break
    return make_grid(low, high, resolution)


def _opaque(extinction: Array, grid: Grid) -> float:
    """Return the usual optical depth of a blocked line, or less for splats so soft that nothing would be inside."""
    return min(carve.OPAQUE, 0.5 * carve.faintest_line(extinction, grid.cell))


def _drawn(splats: Splats) -> Splats:
    drawn = visible(splats)
    if len(drawn) == 0:
        opacities = splats.opacities[~np.isnan(splats.opacities)]
        largest = f"{float(opacities.max()):.2g}" if len(opacities) else "none"
        raise AssetError(
            f"No mesh can be made: none of the {len(splats)} Gaussians is visible (largest opacity {largest}). At "
            "least one finite Gaussian with opacity above 1/255 is needed: train longer or take an earlier checkpoint."
        )
    return drawn


def _check(resolution: int, target_faces: int, smoothing: int) -> None:
    limits = (
        ("resolution", resolution, 16, 512),
        ("target_faces", target_faces, 100, 10**7),
        ("smoothing", smoothing, 0, 100),
    )
    for name, value, lowest, highest in limits:
        if not lowest <= value <= highest:
            raise ConfigError(
                f"{name} is {value}, but {lowest} to {highest} is allowed: give a value in that range.", path=name
            )
