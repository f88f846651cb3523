"""Coloured points from the files of other programs: drawn on the surface of meshes, or taken from point clouds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError
from sds3d.export.axes import linear_to_srgb, srgb_to_linear
from sds3d.meshing.mesh import Mesh

Array = NDArray[np.float64]

POINT_SUFFIXES = (".ply", ".glb", ".obj", ".stl", ".off")
"""Endings of the mesh and point files that are read."""
Y_UP = (".glb", ".obj")
"""Formats whose files stand on +Y; the others keep +Z, as the files written here do."""
_GREY = 0.5


@dataclass(frozen=True)
class Points:
    """N points in the world frame: positions [N, 3] and colors [N, 3], sRGB in [0, 1] (grey where there are none)."""

    positions: NDArray[np.float32]
    colors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)


def read_points(path: Path | str, count: int, seed: int = 0) -> Points:
    """Return at most `count` points of a mesh or point cloud file.

    On meshes exactly `count` are drawn, every part of the surface with equal probability, with the colour there
    (vertex colours, face colours, a texture, or the colour of the material). Of point clouds a random choice is taken;
    small ones come whole. GLB and OBJ are turned from +Y up to our +Z up.

    Raises: AssetError if the file is missing, cannot be read, or holds neither triangles nor points.
    Limits: textures are not filtered.
    """
    source = Path(path)
    meshes, clouds = _load(source)
    generator = np.random.default_rng(seed)
    if meshes:
        areas = np.array([mesh.area for mesh in meshes])
        shares = generator.multinomial(count, areas / areas.sum())
        is_linear = source.suffix.lower() == ".glb"
        pairs = [_draw(mesh, int(share), generator, is_linear) for mesh, share in zip(meshes, shares, strict=True)]
    else:
        pairs = [_cloud(cloud) for cloud in clouds]
    positions, colors = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    if len(positions) > count:
        chosen = np.sort(generator.choice(len(positions), count, replace=False))
        positions, colors = positions[chosen], colors[chosen]
    if source.suffix.lower() in Y_UP:
        positions = positions @ np.array(WORLD_TO_GLTF)  # rows times R is R^T times columns: back to our frame
    return Points(positions.astype(np.float32), np.clip(colors, 0.0, 1.0).astype(np.float32))


def points_on(mesh: Mesh, count: int, seed: int = 0) -> Points:
    """Return `count` points spread evenly over the surface of `mesh`, with its vertex colours."""
    import trimesh

    colors = np.concatenate([mesh.colors, np.ones((len(mesh.colors), 1))], axis=1)
    surface = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=(255 * colors).round().astype(np.uint8), process=False
    )
    positions, found = _draw(surface, count, np.random.default_rng(seed), is_linear=False)
    return Points(positions.astype(np.float32), found.astype(np.float32))


def _load(source: Path) -> tuple[list[Any], list[Any]]:
    """Return the meshes with some area, and the point clouds, of a file, in the file's frame."""
    import trimesh

    needed = f"A file of triangles or points is needed ({', '.join(POINT_SUFFIXES)}): give its path."
    if not source.is_file():
        raise AssetError(f"Cannot read '{source}': there is no such file. {needed}", source)
    try:
        loaded = trimesh.load(source, process=False)
        parts = placed_parts(loaded)
    except Exception as error:  # whatever a foreign reader stumbles over in a broken file
        raise AssetError(
            f"Cannot read '{source}': it is broken or of another kind ({error!r}). {needed}", source
        ) from error
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    meshes = [mesh for mesh in meshes if np.isfinite(mesh.vertices).all() and mesh.area > 0.0]
    clouds = [part for part in parts if isinstance(part, trimesh.PointCloud) and len(part.vertices)]
    clouds = [cloud for cloud in clouds if np.isfinite(cloud.vertices).all()]
    if not meshes and not clouds:
        raise AssetError(
            f"'{source}' holds no triangles of any area and no points, or not finite ones. {needed}", source
        )
    return meshes, clouds


def placed_parts(loaded: Any) -> list[Any]:
    """Return the meshes and clouds of what trimesh loaded, each moved to its place in the scene.

    `Scene.dump` of trimesh 5.2 does the same but loses vertex colours beside a material.
    """
    if not hasattr(loaded, "graph"):
        return [loaded]
    parts = []
    for node in sorted(loaded.graph.nodes_geometry, key=str):  # the reader's own order differs from run to run
        matrix, name = loaded.graph[node]
        source = loaded.geometry[name]
        part = source.copy(include_cache=True) if hasattr(source, "faces") else source.copy()  # keeps its normals
        kept = getattr(source.visual, "vertex_attributes", None)
        if kept and part.visual.kind == "texture":
            part.visual.vertex_attributes.update({key: np.array(kept[key]) for key in kept})
        part.apply_transform(matrix)
        parts.append(part)
    return parts


def _cloud(cloud: Any) -> tuple[Array, Array]:
    """Return positions and sRGB of a point cloud."""
    positions = np.asarray(cloud.vertices, np.float64)
    colors = np.asarray(cloud.colors) if cloud.colors is not None else np.zeros((0, 4))
    if len(colors) != len(positions):
        return positions, np.full_like(positions, _GREY)
    return positions, colors[:, :3] / 255.0


def _draw(mesh: Any, count: int, generator: np.random.Generator, is_linear: bool) -> tuple[Array, Array]:
    """Return `count` positions on a mesh and the sRGB there; is_linear: its vertex colours are linear light."""
    corners = np.asarray(mesh.vertices, np.float64)[mesh.faces]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    face = generator.choice(len(area), count, p=area / area.sum())
    # Two uniform numbers, folded where they leave the triangle: uniform on it (Turk, Graphics Gems, 1990).
    u, v = generator.random((2, count))
    u, v = np.where(u + v > 1.0, 1.0 - u, u), np.where(u + v > 1.0, 1.0 - v, v)
    weight = np.stack([1.0 - u - v, u, v], axis=1)
    return np.einsum("nk,nkd->nd", weight, corners[face]), _colors(mesh, face, weight, is_linear)


def _colors(mesh: Any, face: NDArray[np.int64], weight: Array, is_linear: bool) -> Array:
    """Return the sRGB [N, 3] of points in `face` [N] at barycentric `weight` [N, 3]."""
    visual = mesh.visual
    if visual.kind == "vertex":
        values = vertex_colors(mesh, is_linear)
        if values is not None:
            return np.einsum("nk,nkd->nd", weight, values[mesh.faces[face]])
    if visual.kind == "face":
        return np.asarray(visual.face_colors)[face, :3] / 255.0
    colors = np.full((len(face), 3), _GREY)
    if visual.kind == "texture":
        at_vertices = vertex_colors(mesh, is_linear)
        if at_vertices is not None:
            colors = np.einsum("nk,nkd->nd", weight, at_vertices[mesh.faces[face]])
        image, factor = _material(visual.material)
        if image is not None and visual.uv is not None:
            uv = np.einsum("nk,nkd->nd", weight, np.asarray(visual.uv, np.float64)[mesh.faces[face]])
            height, width = image.shape[:2]
            column = np.floor(uv[:, 0] % 1.0 * width).astype(int) % width
            row = np.floor((1.0 - uv[:, 1]) % 1.0 * height).astype(int) % height
            colors = image[row, column]
        elif factor is not None and at_vertices is None:
            colors = np.ones_like(colors)
        if factor is not None:  # the specification multiplies linear light
            colors = linear_to_srgb(srgb_to_linear(colors) * factor).astype(np.float64)
    return colors


def vertex_colors(mesh: Any, is_linear: bool) -> Array | None:
    """Return the sRGB [V, 3] at the vertices of a foreign (trimesh) mesh, None if it has none.

    is_linear: the file holds linear light. Beside a material the reader keeps them among other attributes.
    """
    visual = mesh.visual
    values = visual.vertex_colors if visual.kind == "vertex" else visual.vertex_attributes.get("color")
    if values is None or len(values) != len(mesh.vertices):
        return None
    array = np.asarray(values)[:, :3]
    colors = array / float(np.iinfo(array.dtype).max) if array.dtype.kind in "iu" else array.astype(np.float64)
    return linear_to_srgb(colors).astype(np.float64) if is_linear else np.clip(colors, 0.0, 1.0)


def _material(material: Any) -> tuple[Array | None, Array | None]:
    """Return the sRGB texture [H, W, 3] and the linear factor [3] of a material, as far as it has them."""
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    image = getattr(material, "image", None) if image is None else image
    texture = None if image is None else np.asarray(image.convert("RGB"), np.float64) / 255.0
    return texture, None if factor is None else np.asarray(factor, np.float64)[:3] / 255.0
