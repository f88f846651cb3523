"""Repair triangle meshes of unknown origin, and say what was done."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ConfigError
from sds3d.meshing import topology
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.topology import chosen_faces

LIMIT = 12_000_000
"""Faces beyond which a mesh is refused: decimating that many takes minutes and several gigabytes."""
LARGEST = 1_000_000
"""Faces that are kept at most, unless the caller says otherwise."""


@dataclass(frozen=True, kw_only=True)
class Repairs:
    """What was found and done, in this order; every number is a count of faces unless it says otherwise.

    Args:
        broken_faces: removed, because a corner was NaN or infinite.
        merged_vertices: vertices removed because another one was at the same place.
        empty_faces: removed, because two corners were the same or all on one line.
        double_faces: removed, because another one had the same three corners.
        decimated_faces: removed by decimation, because the mesh had too many.
        cut_edges: edges of three and more faces that were taken apart.
        flipped_faces: turned around, to agree with their neighbours and to look outwards.
        one_sided_pieces: pieces that have no inside and outside (Moebius strips); they were left as they are.
        small_pieces: pieces removed because they were small.
        filled_holes: holes closed.
        open_edges: edges with one face that are left; 0 if the mesh is closed.
    """

    broken_faces: int = 0
    merged_vertices: int = 0
    empty_faces: int = 0
    double_faces: int = 0
    decimated_faces: int = 0
    cut_edges: int = 0
    flipped_faces: int = 0
    one_sided_pieces: int = 0
    small_pieces: int = 0
    filled_holes: int = 0
    open_edges: int = 0

    @property
    def line(self) -> str:
        """What was done in one line, "nothing to repair" if nothing was."""
        done = [f"{getattr(self, f.name)} {f.name.replace('_', ' ')}" for f in fields(self) if getattr(self, f.name)]
        return ", ".join(done) or "nothing to repair"


def repair(
    mesh: Mesh,
    *,
    keep_share: float = 0.0,
    fill_holes: bool = False,
    max_faces: int = LARGEST,
    largest_hole: int = 1000,
) -> tuple[Mesh, Repairs]:
    """Return a mesh in which every edge has at most two faces that agree which side is out, and what was done to it.

    Faces with NaN corners, without area, or twins of others go; vertices at one place become one; too many faces are
    decimated; edges of three or more faces are cut; neighbours are turned to agree, closed pieces to look outwards (cavities
    inwards), open ones away from their middle. Colours are carried; so are texture coordinates, except by decimation,
    which keeps the colours of the texture at the vertices.

    Args:
        keep_share: pieces of less than this share of the largest piece's area are removed; 0 to 1, 0 keeps all.
        fill_holes: close holes of at most `largest_hole` edges by a fan about their middle; on textured meshes it takes the
            colour of the border.
        max_faces: at least 100.

    Raises: AssetError if no face is left, or there are more than 12 million; ConfigError for values out of range.
    Limits: fans across strongly bent holes may cross the surface; faces that cross each other are not looked for.
    """
    _check(mesh, keep_share, max_faces)
    done: dict[str, int] = {}
    mesh = _without_broken(mesh, done)
    mesh = _merged(mesh, done)
    mesh = _without_empty(mesh, done)
    _check_left(mesh, done)
    mesh = _decimated(mesh, max_faces, done)
    mesh, done["cut_edges"] = topology.cut(mesh)
    mesh, done["flipped_faces"], done["one_sided_pieces"] = topology.oriented(mesh)
    if keep_share > 0.0:
        mesh, done["small_pieces"] = topology.largest_pieces(mesh, keep_share)
    if fill_holes:
        mesh, done["filled_holes"] = topology.filled(mesh, largest_hole)
    done["open_edges"] = topology.open_edges(mesh.faces)
    return mesh, Repairs(**done)


def _check(mesh: Mesh, keep_share: float, max_faces: int) -> None:
    for name, value, lowest, highest in (("keep_share", keep_share, 0, 1), ("max_faces", max_faces, 100, LIMIT)):
        if not lowest <= value <= highest:
            raise ConfigError(f"{name} is {value}, but {lowest} to {highest} is allowed: give one of these.", path=name)
    if len(mesh.faces) > LIMIT:
        raise AssetError(
            f"The mesh has {len(mesh.faces)} faces, but at most {LIMIT} are read: reduce it first, for example by "
            "Blender's or MeshLab's decimation."
        )


def _check_left(mesh: Mesh, done: dict[str, int]) -> None:
    if len(mesh.faces) == 0:
        raise AssetError(
            f"The mesh has no usable face ({Repairs(**done).line}). At least one triangle with an area and finite corners "
            "is needed: export it again from the program that made it."
        )


def _without_broken(mesh: Mesh, done: dict[str, int]) -> Mesh:
    keep = np.asarray(np.isfinite(mesh.vertices[mesh.faces]).all(axis=(1, 2)))
    if mesh.uvs is not None and mesh.uv_faces is not None:
        keep &= np.isfinite(mesh.uvs[mesh.uv_faces]).all(axis=(1, 2))
    done["broken_faces"] = int((~keep).sum())
    grey = np.float32(0.5)
    mesh = replace(mesh, colors=np.where(np.isfinite(mesh.colors), mesh.colors, grey))
    return chosen_faces(mesh, keep)


def _merged(mesh: Mesh, done: dict[str, int]) -> Mesh:
    """Join vertices at exactly one place; their colours are averaged."""
    if len(mesh.vertices) == 0:
        return mesh
    # Zero has two signs that compare as different bytes.
    packed = np.ascontiguousarray(mesh.vertices + np.float32(0.0)).view(np.dtype((np.void, 12))).ravel()
    _, first, index = np.unique(packed, return_index=True, return_inverse=True)
    done["merged_vertices"] = len(packed) - len(first)
    if done["merged_vertices"] == 0:
        return mesh
    count = np.bincount(index)[:, None]
    colors = np.stack([np.bincount(index, mesh.colors[:, channel]) for channel in range(3)], axis=1) / count
    return replace(mesh, vertices=mesh.vertices[first], colors=colors.astype(np.float32), faces=index[mesh.faces])


def _without_empty(mesh: Mesh, done: dict[str, int]) -> Mesh:
    a, b, c = mesh.faces.T
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = np.linalg.norm(np.cross(first, second), axis=1)
    longest = np.maximum((first**2).sum(axis=1), (second**2).sum(axis=1))
    keep = (a != b) & (b != c) & (c != a) & (area > 1e-9 * longest)
    done["empty_faces"] = int((~keep).sum())
    mesh = chosen_faces(mesh, keep)
    keep = _first_of_each(np.sort(mesh.faces, axis=1))
    done["double_faces"] = int((~keep).sum())
    return chosen_faces(mesh, keep)


def _first_of_each(rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which of the rows [F, 3] no earlier row equals."""
    order = np.lexsort(rows.T[::-1])
    is_first = np.ones(len(rows), bool)
    is_first[order[1:]] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    return is_first


def _decimated(mesh: Mesh, max_faces: int, done: dict[str, int]) -> Mesh:
    if len(mesh.faces) <= max_faces:
        return mesh
    made = decimate(mesh, max_faces)
    done["decimated_faces"] = len(mesh.faces) - len(made.faces)
    return made


def decimate(mesh: Mesh, target_faces: int) -> Mesh:
    """Return a mesh of about `target_faces` faces by quadric edge collapse, coloured as the nearest old vertices are.

    Texture coordinates do not survive; the texture's colours at the vertices do. Open meshes are allowed, in contrast to
    `surface.decimate`. Source: Garland and Heckbert, 1997, as in the package fast-simplification.
    """
    from fast_simplification import simplify
    from scipy.spatial import cKDTree

    if len(mesh.faces) <= target_faces:
        return mesh
    points, faces = simplify(mesh.vertices, mesh.faces.astype(np.int32), target_count=target_faces)
    _, nearest = cKDTree(mesh.vertices).query(points)
    made = Mesh(points, faces, mesh.colors[nearest])
    return chosen_faces(made, np.ones(len(faces), bool))
