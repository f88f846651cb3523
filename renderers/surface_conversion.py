"""To a mesh renderer from a configuration, a mesh or a field, and from it to a mesh."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from renderers.isosurface import distances
from renderers.isosurface.flexicubes import cube_grid
from renderers.isosurface.geometry import CubeGeometry, Geometry, MeshGeometry, TetGeometry
from renderers.isosurface.tetrahedra import body_centred_grid
from renderers.surface import SurfaceRenderer, vertex_normals
from renderers.surface_texture import (
    FieldTexture,
    ImageTexture,
    Places,
    Texture,
    VertexTexture,
    fit_texture,
    space_texture,
    unwrap,
)
from sds3d.config.surface import SurfaceConfig
from sds3d.errors import ConfigError
from sds3d.meshing.mesh import Mesh

Color = Callable[[Tensor], Tensor]
FIT_POINTS = 8_000
"""Places on and near the surface at which colours are fitted, a step."""


def surface_renderer(config: SurfaceConfig, generator: torch.Generator, start: Mesh | None = None) -> SurfaceRenderer:
    """Return the renderer of `config`: from the mesh `start`, or else from a grey sphere.

    generator: CPU generator of all initial values and of the seed of random lamps.
    """
    if start is not None:
        return from_mesh(start, config, generator)
    if config.geometry in ("fixed", "offsets"):
        return from_mesh(sphere_mesh(config.init_radius, config.resolution), config, generator)
    geometry = _grid(config, lambda nodes, blocks, cell: nodes.norm(dim=1) - config.init_radius)
    return _renderer(geometry, space_texture(config.texture, config.radius, generator), config, generator)


def from_field(
    field: distances.Field,
    color: Color,
    config: SurfaceConfig,
    generator: torch.Generator,
    *,
    kind: str = "density",
    iso: float | None = None,
) -> SurfaceRenderer:
    """Return a renderer whose surface is that of a field, with its colours: the step from NeRF or NeuS to a mesh.

    Args:
        field: points [n, 3] (world frame) to [n] values. kind, iso: what they mean, see `distances.distances_of_field`.
        color: points [n, 3] to sRGB [n, 3] in [0, 1], without view dependence.
        config: geometry "dmtet" and "flexicubes" sample the field at the grid's nodes; "fixed" and "offsets" take the
            mesh that FlexiCubes extracts from it.

    Raises: ConfigError if the field has no surface inside the grid.
    """
    is_mesh = config.geometry in ("fixed", "offsets")
    grid_config = config.model_copy(update={"geometry": "flexicubes"}) if is_mesh else config
    geometry = _grid(
        grid_config, lambda nodes, blocks, cell: distances.distances_of_field(nodes, cell, field, kind, iso)
    )
    with torch.no_grad():
        surface = geometry(is_final=is_mesh)
    if is_mesh:
        geometry = MeshGeometry(surface.vertices, surface.faces, config.geometry == "offsets")
    texture = _texture(config, surface.vertices, surface.faces, lambda places: color(places.position), generator)
    return _renderer(geometry, texture, config, generator)


def from_mesh(mesh: Mesh, config: SurfaceConfig, generator: torch.Generator) -> SurfaceRenderer:
    """Return a renderer that starts from `mesh`, with its colours.

    "fixed" and "offsets" keep its triangles; "dmtet" and "flexicubes" take its signed distances (limits:
    `distances.distances_to_mesh`). The mesh must lie within the grid. Raises: ConfigError if it does not, or is empty.
    """
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    if not len(faces) or not bool(vertices.isfinite().all()):
        raise ConfigError(
            f"The mesh at the start has {len(faces)} triangles and {int((~vertices.isfinite()).any(dim=1).sum())} vertices "
            "that are not finite. At least one triangle and finite values are needed: repair the file.",
            "renderer.init",
        )
    geometry: Geometry
    if config.geometry in ("fixed", "offsets"):
        geometry = MeshGeometry(vertices, faces, config.geometry == "offsets")
    else:
        reach = float(vertices.abs().max())
        if reach >= config.radius:
            raise ConfigError(
                f"The mesh at the start reaches {reach:.3g} along an axis, but the grid ends at renderer.radius="
                f"{config.radius:g}. Give a larger radius, or renderer.init_size to scale the mesh.",
                "renderer.radius",
            )
        geometry = _grid(
            config, lambda nodes, blocks, cell: distances.distances_to_mesh(nodes, blocks, cell, vertices, faces)
        )
    colors = torch.from_numpy(mesh.colors)
    texture = _texture(config, vertices, faces, lambda places: weighted_colors(colors, faces, places), generator)
    return _renderer(geometry, texture, config, generator)


@torch.no_grad()
def to_mesh(renderer: SurfaceRenderer, max_faces: int | None = None, smallest: float = 0.01) -> Mesh:
    """Return the asset as a mesh with colours at its vertices.

    max_faces: fewer triangles by quadric edge collapse if there are more; only for closed meshes (all from grids are).
    smallest: pieces with less than this share of the largest piece's area are left out.
    """
    from sds3d.meshing.surface import decimate, is_closed

    surface = renderer.geometry(is_final=True)
    points, faces = surface.vertices.cpu().double().numpy(), surface.faces.cpu().numpy()
    points, kept_rows, faces = without_crumbs(points, faces, smallest)
    source = (points, faces, kept_rows)
    if max_faces is not None and len(faces) > max_faces and is_closed(faces):
        points, faces = decimate(points, faces, max_faces)
    colors = _colors_at(renderer.texture, points, source)
    return Mesh(points.astype(np.float32), faces, colors)


def without_crumbs(points: np.ndarray, faces: np.ndarray, smallest: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (points, their faces' rows in the old `faces`, faces) without small pieces and unused vertices."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(points)
    graph = coo_matrix((np.ones(2 * len(faces)), (faces[:, [0, 1]].ravel(), faces[:, [1, 2]].ravel())), (count, count))
    piece = connected_components(graph, directed=False)[1][faces[:, 0]]
    a, b, c = (points[faces[:, k]] for k in range(3))
    area = np.bincount(piece, np.linalg.norm(np.cross(b - a, c - a), axis=1))
    rows = np.flatnonzero(area[piece] >= smallest * area.max())
    used, renumbered = np.unique(faces[rows], return_inverse=True)
    return points[used], rows, renumbered.reshape(-1, 3)


def _colors_at(texture: Texture, points: np.ndarray, source: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Return sRGB [V, 3] at `points`: of a field directly, else at the nearest vertex of `source`."""
    device = next(texture.parameters()).device
    old_points, old_faces, rows = source
    place = torch.from_numpy(points.astype(np.float32)).to(device)
    if isinstance(texture, FieldTexture):
        nothing = torch.zeros(len(points), dtype=torch.long, device=device)
        return texture(Places(place, nothing, place)).cpu().numpy()
    from scipy.spatial import cKDTree

    nearest = cKDTree(old_points).query(points)[1]
    corner = np.zeros(len(old_points), np.int64)  # any corner at which a vertex is used
    corner[old_faces.ravel()] = np.arange(old_faces.size)
    face, at = np.divmod(corner[nearest], 3)
    weight = torch.nn.functional.one_hot(torch.from_numpy(at), 3).float().to(device)
    return texture(Places(place, torch.from_numpy(rows[face]).to(device), weight)).cpu().numpy()


def sphere_mesh(radius: float, resolution: int) -> Mesh:
    """Return a grey sphere of about resolution^2 triangles... by FlexiCubes, so that they are even."""
    grid = cube_grid(max(8, min(resolution, 64)), 1.25 * radius)
    with torch.no_grad():
        surface = CubeGeometry(grid, grid.nodes.norm(dim=1) - radius)(is_final=True)
        vertices = radius * torch.nn.functional.normalize(surface.vertices, dim=1)
    return Mesh(vertices.numpy(), surface.faces.numpy(), np.full((len(vertices), 3), 0.5))


def weighted_colors(colors: Tensor, faces: Tensor, places: Places) -> Tensor:
    """Return [P, 3], vertex colours [V, 3] at places."""
    return (places.weight[..., None] * colors[faces[places.face]]).sum(dim=1)


def _grid(config: SurfaceConfig, distance: Callable[[Tensor, tuple[int, ...], float], Tensor]) -> Geometry:
    """Return the grid geometry of `config`; distance(nodes, blocks, cell) gives its start."""
    n = config.resolution
    if config.geometry == "dmtet":
        tets = body_centred_grid(n, config.radius)
        return TetGeometry(tets, distance(tets.nodes, (n + 1, n), tets.cell), config.deform)
    cubes = cube_grid(n, config.radius)
    return CubeGeometry(cubes, distance(cubes.nodes, (n + 1,), cubes.cell), config.deform)


def _texture(
    config: SurfaceConfig,
    vertices: Tensor,
    faces: Tensor,
    color: Callable[[Places], Tensor],
    generator: torch.Generator,
) -> Texture:
    """Return the texture of `config` with the colours that `color` gives at places of a mesh."""
    kind = config.texture.kind
    if kind == "vertices":
        face = torch.zeros(len(vertices), dtype=torch.long)
        face[faces.t().reshape(-1)] = torch.arange(len(faces)).repeat(3)
        weight = (faces[face] == torch.arange(len(vertices))[:, None]).float()
        weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
        with torch.no_grad():
            return VertexTexture(color(Places(vertices, face, weight)), faces)
    if kind == "uv":
        uv, uv_faces = unwrap(vertices, faces)
        with torch.no_grad():
            image = bake(vertices, faces, uv, uv_faces, config.texture.image_size, color)
        return ImageTexture(image, uv, uv_faces)
    texture, cell = space_texture(config.texture, config.radius, generator), 2.0 * config.radius / config.resolution

    def draw(draws: torch.Generator) -> tuple[Places, Tensor]:
        points, face, weight = distances.sample_faces(vertices, faces, FIT_POINTS, draws)
        with torch.no_grad():
            wanted = color(Places(points, face, weight))
        normals = vertex_normals(vertices, faces)[faces[face, 0]]
        return Places(points + cell * torch.randn(len(points), 1, generator=draws) * normals, face, weight), wanted

    fit_texture(texture, draw, generator)
    return texture


def bake(
    vertices: Tensor, faces: Tensor, uv: Tensor, uv_faces: Tensor, size: int, color: Callable[[Places], Tensor]
) -> Tensor:
    """Return the image [size, size, 3] of colours on a mesh; texels outside of it take the nearest one inside."""
    from scipy.ndimage import distance_transform_edt

    from renderers.meshes.rasterise import rasterise

    flat = torch.cat([2.0 * uv - 1.0, torch.zeros(len(uv), 1), torch.ones(len(uv), 1)], dim=1)[None]
    fragments = rasterise(flat, uv_faces, size, size)
    is_hit = fragments.mask[0]
    face, weight = fragments.face[0][is_hit], fragments.barycentric[0][is_hit]
    position = (weight[..., None] * vertices[faces[face]]).sum(dim=1)
    image = torch.full((size, size, 3), 0.5)
    image[is_hit] = color(Places(position, face, weight)).float()
    rows, columns = distance_transform_edt(~is_hit.numpy(), return_distances=False, return_indices=True)
    return image[torch.from_numpy(rows).long(), torch.from_numpy(columns).long()]


def _renderer(
    geometry: Geometry, texture: Texture, config: SurfaceConfig, generator: torch.Generator
) -> SurfaceRenderer:
    seed = int(torch.randint(2**31, (), generator=generator))
    return SurfaceRenderer(geometry, texture, config.shading, backend=config.backend, seed=seed)
