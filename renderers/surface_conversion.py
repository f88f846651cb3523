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
    has_mesh = config.geometry in ("fixed", "offsets")
    if has_mesh and config.texture.kind in ("vertices", "uv"):
        return from_mesh(sphere_mesh(config.init_radius, config.resolution), config, generator)
    geometry: Geometry
    if has_mesh:
        ball = sphere_mesh(config.init_radius, config.resolution)
        geometry = _held(torch.from_numpy(ball.vertices), torch.from_numpy(ball.faces), config)
    else:
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
        geometry = _held(surface.vertices, surface.faces, config)
    mesh = _plain(surface.vertices.numpy(), surface.faces.numpy())
    texture = _texture(config, mesh, lambda places: color(places.position), generator)
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
        geometry = _held(vertices, faces, config)
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
    texture = _texture(config, mesh, colors_of(mesh), generator)
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
    """Return a grey sphere, extracted by FlexiCubes from `resolution` (8 to 64) cells along 2.5 radii: even triangles."""
    grid = cube_grid(max(8, min(resolution, 64)), 1.25 * radius)
    with torch.no_grad():
        surface = CubeGeometry(grid, grid.nodes.norm(dim=1) - radius)(is_final=True)
        vertices = radius * torch.nn.functional.normalize(surface.vertices, dim=1)
    return _plain(vertices.numpy(), surface.faces.numpy())


def _plain(vertices: np.ndarray, faces: np.ndarray) -> Mesh:
    return Mesh(vertices, faces, np.full((len(vertices), 3), 0.5))


def colors_of(mesh: Mesh) -> Callable[[Places], Tensor]:
    """Return the function from places on a mesh to its sRGB [P, 3]: of its picture, or else of its vertices.

    Limits: the factor of a material is not applied to its picture.
    """
    from sds3d.meshing.bake import sample

    def color(places: Places) -> Tensor:
        face, weight = places.face.numpy(), places.weight.numpy()
        values, faces = (mesh.uvs, mesh.uv_faces) if mesh.is_textured else (mesh.colors, mesh.faces)
        mean = np.einsum("pk,pkc->pc", weight, values[faces[face]])  # type: ignore[index]
        if mesh.is_textured:
            mean = sample(mesh.material.base_color, mean)  # type: ignore[union-attr, arg-type]
        return torch.from_numpy(np.ascontiguousarray(mean, np.float32))

    return color


def _grid(config: SurfaceConfig, distance: Callable[[Tensor, tuple[int, ...], float], Tensor]) -> Geometry:
    """Return the grid geometry of `config`; distance(nodes, blocks, cell) gives its start."""
    n = config.resolution
    if config.geometry == "dmtet":
        tets = body_centred_grid(n, config.radius)
        return TetGeometry(tets, distance(tets.nodes, (n + 1, n), tets.cell), config.deform)
    cubes = cube_grid(n, config.radius)
    return CubeGeometry(cubes, distance(cubes.nodes, (n + 1,), cubes.cell), config.deform)


def _held(vertices: Tensor, faces: Tensor, config: SurfaceConfig) -> MeshGeometry:
    return MeshGeometry(vertices, faces, config.geometry == "offsets")


def _texture(
    config: SurfaceConfig, mesh: Mesh, color: Callable[[Places], Tensor], generator: torch.Generator
) -> Texture:
    """Return the texture of `config` with the colours that `color` gives at places of a mesh."""
    kind, vertices, faces = config.texture.kind, torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    if kind == "vertices":
        face = torch.zeros(len(vertices), dtype=torch.long)
        face[faces.t().reshape(-1)] = torch.arange(len(faces)).repeat(3)
        weight = (faces[face] == torch.arange(len(vertices))[:, None]).float()
        weight = weight / weight.sum(dim=1, keepdim=True).clamp_min(1.0)
        with torch.no_grad():
            return VertexTexture(color(Places(vertices, face, weight)), faces)
    if kind == "uv":
        return image_texture(mesh, config.texture.image_size, color)
    texture, cell = space_texture(config.texture, config.radius, generator), 2.0 * config.radius / config.resolution

    def draw(draws: torch.Generator) -> tuple[Places, Tensor]:
        points, face, weight = distances.sample_faces(vertices, faces, FIT_POINTS, draws)
        with torch.no_grad():
            wanted = color(Places(points, face, weight))
        normals = vertex_normals(vertices, faces)[faces[face, 0]]
        return Places(points + cell * torch.randn(len(points), 1, generator=draws) * normals, face, weight), wanted

    fit_texture(texture, draw, generator)
    return texture


def image_texture(mesh: Mesh, size: int, color: Callable[[Places], Tensor]) -> ImageTexture:
    """Return an image of `size` texels a side with the colours that `color` gives on a mesh.

    The mesh keeps its texture coordinates if it has any, else it is unwrapped. An image counts rows from above, so v is
    turned over.
    """
    from sds3d.meshing.bake import find_texels, paint
    from sds3d.meshing.unwrap import unwrap

    flat = mesh if mesh.uvs is not None else unwrap(mesh, size).mesh
    texels = find_texels(flat, size)
    position = torch.from_numpy(texels.interpolate(flat.vertices, flat.faces))
    places = Places(position, torch.from_numpy(texels.faces), torch.from_numpy(texels.weights).float())
    with torch.no_grad():
        image = torch.from_numpy(paint(texels, color(places).float().numpy()))
    uv = torch.from_numpy(flat.uvs) * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])  # type: ignore[arg-type]
    return ImageTexture(image, uv, torch.from_numpy(flat.uv_faces))  # type: ignore[arg-type]


def _renderer(
    geometry: Geometry, texture: Texture, config: SurfaceConfig, generator: torch.Generator
) -> SurfaceRenderer:
    seed = int(torch.randint(2**31, (), generator=generator))
    return SurfaceRenderer(geometry, texture, config.shading, backend=config.backend, seed=seed)
