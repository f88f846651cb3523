"""What another program will find wrong with a mesh: holes, loose pieces, turned faces, unused texture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing import topology
from sds3d.meshing.mesh import Mesh


@dataclass(frozen=True, kw_only=True)
class MeshHealth:
    """Counts unless said otherwise. Vertices at one place count as one: formats split them at seams.

    Args:
        vertices, faces: as the file has them.
        is_watertight: closed, no edge of more than two faces, neighbours wound alike: it has an inside.
        open_edges, crowded_edges: edges of one face, and of three or more.
        components: pieces connected across edges.
        largest_share: share of the area in the largest piece, in [0, 1].
        flipped_faces: faces to turn so that neighbours agree and closed pieces look outwards.
        empty_faces: faces without an area, left out of all that follows.
        area, volume: world units; volume is None unless watertight.
        texture_share: share of the texture that faces use, None without one. Overlaps count twice, so it may exceed 1.
        textured_faces: share of the faces whose triangle in the texture has an area, None without a texture.
    """

    vertices: int
    faces: int
    is_watertight: bool
    open_edges: int
    crowded_edges: int
    components: int
    largest_share: float
    flipped_faces: int
    empty_faces: int
    area: float
    volume: float | None
    texture_share: float | None
    textured_faces: float | None

    def as_dict(self) -> dict[str, Any]:
        """Return the values by name."""
        return dict(vars(self))


def mesh_health(mesh: Mesh) -> MeshHealth:
    """Return the health of `mesh`, which is not changed.

    Limits: faces that cut through each other are not looked for; more than 400 closed pieces are not tested for lying
    inside one another, so cavities among them count as flipped.
    """
    joined = _joined(mesh)
    corners = joined.vertices[joined.faces].astype(np.float64)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = 0.5 * np.linalg.norm(normal, axis=1)
    _, piece = topology.pieces(joined.faces)
    components = int(piece.max(initial=-1)) + 1
    by_piece = np.bincount(piece, area, max(components, 1))
    _, turned, one_sided = topology.oriented(joined) if len(joined.faces) else (joined, 0, 0)
    open_edges, crowded = topology.open_edges(joined.faces), _crowded(joined.faces)
    is_closed = bool(len(joined.faces)) and open_edges == crowded == one_sided == 0 and _is_wound_alike(joined.faces)
    return MeshHealth(
        vertices=len(mesh.vertices),
        faces=len(mesh.faces),
        is_watertight=is_closed,
        open_edges=open_edges,
        crowded_edges=crowded,
        components=components,
        largest_share=float(by_piece.max() / max(area.sum(), 1e-30)),
        flipped_faces=turned,
        empty_faces=len(mesh.faces) - len(joined.faces),
        area=float(area.sum()),
        volume=float((corners[:, 0] * normal).sum() / 6.0) if is_closed else None,
        **_texture(mesh),
    )


def _joined(mesh: Mesh) -> Mesh:
    """Return the mesh with vertices at one place joined and faces without an area left out."""
    _, index = np.unique(mesh.vertices + np.float32(0.0), axis=0, return_inverse=True)
    _, first = np.unique(index, return_index=True)
    faces = index.reshape(-1)[mesh.faces]
    a, b, c = faces.T
    corners = mesh.vertices[mesh.faces].astype(np.float64)
    edges = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    longest = np.maximum((edges[0] ** 2).sum(axis=1), (edges[1] ** 2).sum(axis=1))
    keep = (a != b) & (b != c) & (c != a) & (np.linalg.norm(np.cross(*edges), axis=1) > 1e-9 * longest)
    return Mesh(mesh.vertices[first], faces[keep], mesh.colors[first])


def _half_edges(faces: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    tail, head = faces.ravel(), np.roll(faces, -1, axis=1).ravel()
    return tail, head, int(faces.max(initial=0)) + 1


def _crowded(faces: NDArray[np.int64]) -> int:
    tail, head, count = _half_edges(faces)
    _, uses = np.unique(np.minimum(tail, head) * count + np.maximum(tail, head), return_counts=True)
    return int((uses > 2).sum())


def _is_wound_alike(faces: NDArray[np.int64]) -> bool:
    """Return whether every half edge is used once: two neighbours then run along their edge in opposite directions."""
    tail, head, count = _half_edges(faces)
    return len(np.unique(tail * count + head)) == len(tail)


def _texture(mesh: Mesh) -> dict[str, float | None]:
    if not mesh.is_textured or mesh.uvs is None or mesh.uv_faces is None:
        return {"texture_share": None, "textured_faces": None}
    a, b, c = (mesh.uvs[mesh.uv_faces[:, k]].astype(np.float64) for k in range(3))
    first, second = b - a, c - a
    area = 0.5 * np.abs(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0])
    return {"texture_share": float(area.sum()), "textured_faces": float((area > 1e-12).mean()) if len(area) else 0.0}
