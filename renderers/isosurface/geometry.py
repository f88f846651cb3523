"""Geometries: modules that own the parameters of a surface and return its triangles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from renderers.isosurface import flexicubes, tetrahedra
from renderers.isosurface.crossings import check_surface, keep_border_outside
from sds3d.errors import ShapeError


@dataclass(frozen=True)
class Surface:
    """V vertices and F triangles, and where they come from.

    Args:
        vertices: [V, 3] float32, world frame. faces: [F, 3] int64, counter-clockwise seen from outside.
        sdf: [X, 2] signed distances at the inside and the outside end of the crossed edges of the grid; None: no grid.
        deviation: [D] FlexiCubes' L_dev of each dual vertex; None: not FlexiCubes.
    """

    vertices: Tensor
    faces: Tensor
    sdf: Tensor | None = None
    deviation: Tensor | None = None


class Geometry(nn.Module, ABC):
    """What a surface renderer draws. `groups` names the parameters as configuration does."""

    groups: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, is_final: bool = False) -> Surface:
        """Return the surface; is_final: for export, with as few vertices as there can be."""

    def parameters_of(self, group: str) -> list[nn.Parameter]:
        """Return the parameters of one of `groups`."""
        return [getattr(self, group)]

    def repair(self) -> bool:
        """Bring a surface that has vanished back; return whether that was needed. Looks at values."""
        return False

    @property
    def is_fixed(self) -> bool:
        """Whether the triangles (not necessarily the positions) stay what they are."""
        return False


COARSE = (4, 8, 16)
"""Cells a side of the coarse grids that are added to the signed distances; those finer than a third of the grid are left
out. An optimiser that takes steps of one size (Adam) then moves whole parts of a surface smoothly and sooner."""


class GridGeometry(Geometry):
    """What both grids share: signed distances and `moves` [N, 3] of the nodes.

    The distance at a node is `sdf` [N] plus trilinear interpolation in `coarse` [(c + 1)^3, ...], which start at 0. Nodes
    on the border are outside and do not move, so the surface is closed. A node moves by limit * tanh(moves).
    """

    nodes: Tensor
    border: Tensor

    def __init__(self, nodes: Tensor, border: Tensor, cell: float, limit: float, deform: bool, start: Tensor) -> None:
        """cell: world units. limit: of moves, world units. start: [N] signed distances at the start."""
        super().__init__()
        if start.shape != nodes.shape[:1]:
            raise ShapeError("start", f"[{nodes.shape[0]}] (one distance a node)", tuple(start.shape))
        self.cell, self.limit = cell, limit
        for name, value in (("nodes", nodes), ("border", border), ("start", start.detach().clone())):
            self.register_buffer(name, value, persistent=name == "start")
        self.sdf = nn.Parameter(start.detach().clone())
        self.groups = ("sdf",)
        self.cells = round(2.0 * float(nodes[0].abs().amax()) / cell)
        sizes = [size + 1 for size in COARSE if 3 * size <= self.cells]
        self.coarse = nn.ParameterList(torch.zeros(1, 1, size, size, size) for size in sizes)
        if deform:
            self.moves = nn.Parameter(torch.zeros_like(nodes))
            self.groups += ("moves",)

    def places(self) -> Tensor:
        """Return the nodes [N, 3] where they are now."""
        if "moves" not in self.groups:
            return self.nodes
        return self.nodes + self.limit * torch.tanh(self.moves) * (~self.border)[:, None]

    def distances(self) -> Tensor:
        """Return the signed distances [N] with the border outside."""
        sdf: Tensor = self.sdf
        if len(self.coarse):
            size = (self.cells + 1,) * 3
            fine = [nn.functional.interpolate(g, size, mode="trilinear", align_corners=True) for g in self.coarse]
            sdf = sdf + self.at_nodes(torch.stack(fine).sum(dim=0))
        return keep_border_outside(sdf, self.border, self.cell)

    def at_nodes(self, corners: Tensor) -> Tensor:
        """Return [N] values at the nodes from [1, 1, r + 1, r + 1, r + 1] at the corners of the cells, x first."""
        return corners.flatten()

    def parameters_of(self, group: str) -> list[nn.Parameter]:
        """Return the parameters of a group; the coarse grids belong to "sdf"."""
        return [getattr(self, group), *(self.coarse if group == "sdf" else ())]

    @torch.no_grad()
    def repair(self) -> bool:
        """Go back to the distances of the start if no node is inside any more, or none but the border outside."""
        inner = self.distances()[~self.border] < 0
        if bool(inner.any()) and not bool(inner.all()):
            return False
        self.sdf.copy_(self.start)  # type: ignore[arg-type]
        for grid in self.coarse:
            grid.zero_()
        return True


class TetGeometry(GridGeometry):
    """A deformable tetrahedral grid (DMTet). start: [N] signed distances at the nodes of `tetrahedra.body_centred_grid`."""

    tets: Tensor

    def __init__(self, grid: tetrahedra.TetGrid, start: Tensor, deform: bool = True) -> None:
        limit = tetrahedra.DEFORM_LIMIT * grid.cell
        super().__init__(grid.nodes, grid.border, grid.cell, limit, deform, start)
        self.register_buffer("tets", grid.tets, persistent=False)

    def at_nodes(self, corners: Tensor) -> Tensor:
        """Return the values at corners and centres of the cells; a centre has the mean of its corners."""
        return torch.cat([corners.flatten(), nn.functional.avg_pool3d(corners, 2, stride=1).flatten()])

    def forward(self, is_final: bool = False) -> Surface:
        """Return the surface. Raises: ConfigError if there is none."""
        sdf = self.distances()
        vertices, surface = tetrahedra.marching_tetrahedra(self.places(), sdf, self.tets)
        check_surface(surface.faces)
        return Surface(vertices, surface.faces, sdf.index_select(0, surface.crossings.flatten()).view(-1, 2))


class CubeGeometry(GridGeometry):
    """A FlexiCubes grid. start: [N] signed distances at the nodes of `flexicubes.cube_grid`."""

    def __init__(self, grid: flexicubes.CubeGrid, start: Tensor, deform: bool = True) -> None:
        super().__init__(grid.nodes, grid.border, grid.cell, flexicubes.DEFORM_LIMIT * grid.cell, deform, start)
        self.resolution = grid.resolution
        self.weights = nn.Parameter(torch.zeros(grid.resolution**3, flexicubes.WEIGHTS))
        self.groups += ("weights",)

    def forward(self, is_final: bool = False) -> Surface:
        """Return the surface, quadrangles cut in four, or in two if is_final. Raises: ConfigError if there is none."""
        sdf = self.distances()
        vertices, faces, deviation, surface = flexicubes.flexicubes(
            self.places(), sdf, self.weights, self.resolution, "diagonal" if is_final else "midpoint"
        )
        check_surface(faces)
        ends = sdf.index_select(0, surface.crossings.flatten()).view(-1, 2)
        return Surface(vertices, faces, ends, deviation)


class MeshGeometry(Geometry):
    """A given mesh: vertices [V, 3], faces [F, 3] int64; its vertices may move (`offsets`) or not.

    A checkpoint of another mesh replaces this one when it is loaded (make the optimiser after that).
    """

    vertices: Tensor
    faces: Tensor

    def __init__(self, vertices: Tensor, faces: Tensor, moves: bool = False) -> None:
        super().__init__()
        check_surface(faces)
        self.register_buffer("vertices", vertices.detach().clone())
        self.register_buffer("faces", faces.clone())
        if moves:
            self.offsets = nn.Parameter(torch.zeros_like(self.vertices))
            self.groups = ("offsets",)

    @property
    def is_fixed(self) -> bool:
        """Whether the triangles stay what they are: they do."""
        return True

    def forward(self, is_final: bool = False) -> Surface:
        """Return the mesh."""
        return Surface(self.vertices + self.offsets if self.groups else self.vertices, self.faces)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        adopt_shapes(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def adopt_shapes(module: nn.Module, state: dict[str, Any], prefix: str) -> None:
    """Give the parameters and buffers of `module` the shapes they have in a checkpoint, whose values follow."""
    for name, old in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        new = state.get(prefix + name)
        if isinstance(new, Tensor) and new.shape != old.shape and new.dim() == old.dim():
            blank = torch.empty(new.shape, dtype=old.dtype, device=old.device)
            setattr(module, name, nn.Parameter(blank) if isinstance(old, nn.Parameter) else blank)
