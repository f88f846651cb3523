"""FlexiCubes: dual marching cubes with weights that let the surface choose where its vertices lie, in plain torch.

Source: Shen et al., "Flexible Isosurface Extraction for Gradient-Based Mesh Optimization", 2023, sections 4 and 5.
Deviations: the tables are derived (`cube_tables`); tetrahedra inside and adaptive grids are left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from renderers.isosurface.crossings import zero_crossings
from renderers.isosurface.cube_tables import EDGES, cube_tables
from sds3d.errors import ConfigError, ShapeError

WEIGHTS = 21
"""Numbers a cube has of its own: 8 of alpha (corners), 12 of beta (edges), 1 of gamma."""
WEIGHT_SCALE = 0.99
"""How much of the span of alpha and beta, [0, 2], and of gamma, [0, 1], is used."""
DEFORM_LIMIT = 0.5
"""How far a node may move along each axis, in cells: half, so that none passes its neighbour."""
Split = Literal["midpoint", "diagonal"]


@dataclass(frozen=True)
class CubeGrid:
    """A cube of side 2 `radius` about the origin, cut into `resolution`^3 cubes.

    Args:
        nodes: [(resolution + 1)^3, 3] float32, x slowest. border: [N] bool, nodes on the surface of the cube.
        resolution: cubes a side. cell: their side, world units.
    """

    nodes: Tensor
    border: Tensor
    resolution: int
    cell: float


@dataclass(frozen=True)
class CubeSurface:
    """What a choice of inside nodes implies: V patches, crossed by M edges of cubes, in Q quadrangles.

    Args:
        ends: [M, 2] int64, the two nodes of each crossed edge of each cube. edge: [M] int64, which edge of the cube.
        patch: [M] int64, the patch (the row of the vertex) it belongs to. cube: [M] int64, its cube.
        patch_cube: [V] int64, the cube of each patch.
        quads: [Q, 4] int64 rows of patches, counter-clockwise seen from outside.
        crossings: [Q, 2] int64, (inside node, outside node) of the edge of the grid each quadrangle goes round.
    """

    ends: Tensor
    edge: Tensor
    patch: Tensor
    cube: Tensor
    patch_cube: Tensor
    quads: Tensor
    crossings: Tensor


def cube_grid(resolution: int, radius: float = 1.0) -> CubeGrid:
    """Return the regular grid. Raises: ConfigError if resolution < 3 (a border and something within)."""
    if resolution < 3:
        raise ConfigError(
            f"The grid has resolution {resolution}, but at least 3 is needed. Give more cells.", "renderer.resolution"
        )
    line = torch.arange(resolution + 1)
    places = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), dim=-1).reshape(-1, 3)
    border = ((places == 0) | (places == resolution)).any(dim=1)
    cell = 2.0 * radius / resolution
    return CubeGrid(places * cell - radius, border, resolution, cell)


@torch.no_grad()
def find_patches(inside: Tensor, resolution: int) -> CubeSurface:
    """Return the surface between nodes that are `inside` [(r + 1)^3] bool and those that are not.

    It is closed and manifold (each edge of it in two quadrangles) wherever it stays away from the border of the grid.
    """
    n, device = resolution, inside.device
    block = inside.reshape(n + 1, n + 1, n + 1)
    case_of = torch.zeros(n, n, n, dtype=torch.uint8, device=device)
    for c in range(8):
        x, y, z = c & 1, c >> 1 & 1, c >> 2 & 1
        case_of |= block[x : x + n, y : y + n, z : z + n].to(torch.uint8) << c
    case_of = case_of.reshape(-1)
    cubes = ((case_of > 0) & (case_of < 255)).nonzero()[:, 0]
    case, tables = case_of[cubes].long(), cube_tables()
    changed = _changed(cubes, case, case_of, tables.doubtful.to(device), n)
    patch = tables.patch.to(device)[case, changed]  # [A, 12]
    count = tables.count.to(device)[case, changed]
    patch_of = torch.where(patch >= 0, patch + (count.cumsum(0) - count)[:, None], patch)
    row, edge = (patch >= 0).nonzero(as_tuple=True)
    lower = _node_of(cubes, n)
    shift = torch.tensor([((c & 1) * (n + 1) + (c >> 1 & 1)) * (n + 1) + (c >> 2 & 1) for c in range(8)], device=device)
    ends = lower[row, None] + shift[torch.tensor(EDGES, device=device)[edge]]
    row_of = torch.zeros(n**3, dtype=torch.long, device=device)
    row_of[cubes] = torch.arange(len(cubes), device=device)
    quads, crossings = _quads(block, patch_of, row_of, n)
    return CubeSurface(
        ends, edge, patch_of[row, edge], cubes[row], torch.repeat_interleave(cubes, count), quads, crossings
    )


def _node_of(cubes: Tensor, n: int) -> Tensor:
    """Return the lowest node of each cube."""
    x, y, z = cubes // (n * n), cubes // n % n, cubes % n
    return (x * (n + 1) + y) * (n + 1) + z


def _changed(cubes: Tensor, case: Tensor, case_of: Tensor, doubtful: Tensor, n: int) -> Tensor:
    """Return [A] 1 for cubes whose doubtful face is also that of the neighbour behind it, else 0."""
    face = doubtful[case]
    axis, side = face.clamp_min(0) // 2, face.clamp_min(0) % 2
    stride = torch.tensor([n * n, n, 1], device=cubes.device)[axis]
    place = cubes // stride % n + 2 * side - 1
    has_neighbour = (face >= 0) & (place >= 0) & (place < n)
    beyond = torch.where(has_neighbour, cubes + (2 * side - 1) * stride, cubes)
    return (has_neighbour & (doubtful[case_of[beyond].long()] == (face ^ 1))).long()


def _quads(block: Tensor, patch_of: Tensor, row_of: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the quadrangles (quads [Q, 4], crossings [Q, 2]) around all crossed edges that have four cubes."""
    nodes = torch.arange(block.numel(), device=block.device).reshape(block.shape)
    cubes = torch.arange(n**3, device=block.device).reshape(n, n, n)
    quads, crossings = [], []
    for axis in range(3):
        order = (axis, (axis + 1) % 3, (axis + 2) % 3)
        near, number, cube = (part.permute(order) for part in (block, nodes, cubes))
        low, high = near[:-1, 1:-1, 1:-1], near[1:, 1:-1, 1:-1]
        i, j, k = (low != high).nonzero(as_tuple=True)
        corners = []
        # Seen against the axis the four cubes around an edge go counter-clockwise: (- -), (+ -), (+ +), (- +).
        for one, other in ((0, 0), (1, 0), (1, 1), (0, 1)):
            lower_corner = (1 - one) << (axis + 1) % 3 | (1 - other) << (axis + 2) % 3
            edge = EDGES.index((lower_corner, lower_corner | 1 << axis))
            corners.append(patch_of[row_of[cube[i, j + one, k + other]], edge])
        starts_inside = low[i, j, k][:, None]
        quad, pair = torch.stack(corners, dim=1), torch.stack([number[i, j + 1, k + 1], number[i + 1, j + 1, k + 1]], 1)
        quads.append(torch.where(starts_inside, quad, quad.flip(1)))
        crossings.append(torch.where(starts_inside, pair, pair.flip(1)))
    return torch.cat(quads), torch.cat(crossings)


def activate(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (alpha [C, 8] in (0, 2), beta [C, 12] in (0, 2), gamma [C] in (0, 1)) of free numbers [C, 21]; 0 is plain."""
    spread = 1.0 + WEIGHT_SCALE * torch.tanh(weights[:, :20])
    gamma = 0.5 + WEIGHT_SCALE * (torch.sigmoid(weights[:, 20]) - 0.5)
    return spread[:, :8], spread[:, 8:], gamma


def place_patches(nodes: Tensor, sdf: Tensor, weights: Tensor, surface: CubeSurface) -> tuple[Tensor, Tensor]:
    """Return (vertices [V, 3], deviation [V]): each patch's mean crossing weighted by beta, and its L_dev.

    Crossings are those of the signed distance times alpha. Source: equations 3, 4 (vertices) and 8 (the mean absolute
    deviation of the distances between a vertex and its crossings).
    """
    first, second = surface.ends.unbind(dim=1)
    corner = torch.tensor(EDGES, device=sdf.device)[surface.edge]  # [M, 2]
    own = weights.index_select(0, surface.cube)
    alpha, beta, _ = activate(own)
    scaled = torch.stack([sdf.index_select(0, first), sdf.index_select(0, second)], dim=1) * alpha.gather(1, corner)
    points = zero_crossings(nodes.index_select(0, first), nodes.index_select(0, second), scaled[:, 0], scaled[:, 1])
    share = beta.gather(1, surface.edge[:, None])
    count = surface.patch_cube.shape[0]
    total = points.new_zeros(count, 4).index_add(0, surface.patch, torch.cat([share * points, share], dim=1))
    vertices = total[:, :3] / total[:, 3:]
    difference = points - vertices.index_select(0, surface.patch)
    distance = (difference.square().sum(dim=1) + 1e-20).sqrt()
    return vertices, _mean_absolute_deviation(distance, surface.patch, count)


def _mean_absolute_deviation(values: Tensor, group: Tensor, count: int) -> Tensor:
    """Return [count] mean |value - mean of its group| of `values` [M] in `group` [M]."""
    ones = torch.ones_like(values)
    size = values.new_zeros(count).index_add(0, group, ones)
    mean = values.new_zeros(count).index_add(0, group, values) / size
    return values.new_zeros(count).index_add(0, group, (values - mean.index_select(0, group)).abs()) / size


def split_quads(vertices: Tensor, gamma: Tensor, quads: Tensor, split: Split) -> tuple[Tensor, Tensor]:
    """Return (vertices, faces [F, 3]): quadrangles [Q, 4] cut in two by the heavier diagonal, or in four.

    gamma: [V] weight of each vertex. "diagonal" keeps the vertices; which diagonal carries no gradient. "midpoint" adds
    one between the middles of both diagonals, weighted by the products of gamma along them (section 4.3): for training.
    """
    weight = gamma[quads]
    one, other = weight[:, 0] * weight[:, 2], weight[:, 1] * weight[:, 3]
    if split == "midpoint":
        corners = vertices[quads]
        middle = 0.5 * (
            one[:, None] * (corners[:, 0] + corners[:, 2]) + other[:, None] * (corners[:, 1] + corners[:, 3])
        )
        centre = vertices.shape[0] + torch.arange(quads.shape[0], device=quads.device)
        faces = [torch.stack([quads[:, k], quads[:, (k + 1) % 4], centre], dim=1) for k in range(4)]
        return torch.cat([vertices, middle / (one + other)[:, None]]), torch.cat(faces)
    turned = torch.where((other > one)[:, None], quads.roll(-1, dims=1), quads)
    return vertices, torch.cat([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])


def flexicubes(
    nodes: Tensor, sdf: Tensor, weights: Tensor, resolution: int, split: Split = "midpoint"
) -> tuple[Tensor, Tensor, Tensor, CubeSurface]:
    """Return (vertices [V', 3], faces [F, 3], deviation [V], surface) of sdf = 0, differentiable in the first three.

    Args:
        nodes: [(r + 1)^3, 3], the grid's nodes, moved or not. sdf: [(r + 1)^3], negative inside.
        weights: [r^3, 21] free numbers (see `activate`); zeros are plain dual marching cubes.
        split: see `split_quads`.

    Raises: ShapeError if they do not fit. Limits: the patches are found anew on each call, from the signs alone, and
    carry no gradient; a surface that reaches the border of the grid is open there.
    """
    count = (resolution + 1) ** 3
    expected = (("nodes", nodes, (count, 3)), ("sdf", sdf, (count,)), ("weights", weights, (resolution**3, WEIGHTS)))
    for name, tensor, shape in expected:
        if tensor.shape != shape:
            raise ShapeError(name, str(list(shape)), tuple(tensor.shape))
    surface = find_patches(sdf < 0, resolution)
    vertices, deviation = place_patches(nodes, sdf, weights, surface)
    gamma = activate(weights.index_select(0, surface.patch_cube))[2]
    return *split_quads(vertices, gamma, surface.quads, split), deviation, surface
