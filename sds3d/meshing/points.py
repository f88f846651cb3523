"""Coloured points from the files of other programs: drawn on the surface of meshes, or taken from point clouds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import AssetError

Array = NDArray[np.float64]

POINT_SUFFIXES = (".ply", ".glb", ".obj", ".stl", ".off")
"""Endings of the mesh and point files that are read."""
_Y_UP = (".glb", ".obj")
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
    Limits: vertex colours beside a material are lost, as the reader (trimesh) drops them; textures are not filtered.
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
    if source.suffix.lower() in _Y_UP:
        positions = positions @ np.array(WORLD_TO_GLTF)  # rows times R is R^T times columns: back to our frame
    return Points(positions.astype(np.float32), np.clip(colors, 0.0, 1.0).astype(np.float32))


def _load(source: Path) -> tuple[list[Any], list[Any]]:
    """Return the meshes with some area, and the point clouds, of a file, in the file's frame."""
    import trimesh

    needed = f"A file of triangles or points is needed ({', '.join(POINT_SUFFIXES)}): give its path."
    if not source.is_file():
        raise AssetError(f"Cannot read '{source}': there is no such file. {needed}", source)
    try:
        loaded = trimesh.load(source, process=False)
        parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
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
        values = np.asarray(visual.vertex_colors)[:, :3] / 255.0
        values = _linear_to_srgb(values) if is_linear else values
        return np.einsum("nk,nkd->nd", weight, values[mesh.faces[face]])
    if visual.kind == "face":
        return np.asarray(visual.face_colors)[face, :3] / 255.0
    colors = np.full((len(face), 3), _GREY)
    if visual.kind == "texture":
        image, factor = _material(visual.material)
        if image is not None and visual.uv is not None:
            uv = np.einsum("nk,nkd->nd", weight, np.asarray(visual.uv, np.float64)[mesh.faces[face]])
            height, width = image.shape[:2]
            column = np.floor(uv[:, 0] % 1.0 * width).astype(int) % width
            row = np.floor((1.0 - uv[:, 1]) % 1.0 * height).astype(int) % height
            colors = image[row, column]
        elif factor is not None:
            colors = np.ones_like(colors)
        if factor is not None:  # the specification multiplies linear light
            from sds3d.export.mesh import srgb_to_linear

            colors = _linear_to_srgb(srgb_to_linear(colors) * factor)
    return colors


def _material(material: Any) -> tuple[Array | None, Array | None]:
    """Return the sRGB texture [H, W, 3] and the linear factor [3] of a material, as far as it has them."""
    image = getattr(material, "baseColorTexture", None)
    factor = getattr(material, "baseColorFactor", None)
    image = getattr(material, "image", None) if image is None else image
    texture = None if image is None else np.asarray(image.convert("RGB"), np.float64) / 255.0
    return texture, None if factor is None else np.asarray(factor, np.float64)[:3] / 255.0


def _linear_to_srgb(values: NDArray[np.floating]) -> Array:
    """Encode linear light in [0, 1] as sRGB. Source: IEC 61966-2-1."""
    c = np.clip(np.asarray(values, np.float64), 0.0, 1.0)
    return np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1.0 / 2.4) - 0.055)
