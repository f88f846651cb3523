"""How far points are from the surface of a mesh, inside or outside, and which colour is nearest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.mesh import Mesh

SAMPLES = 60_000
"""Points the surface is replaced by."""
_VOTES = 4
"""So many nearest samples decide the side: a single one is wrong near sharp edges."""


class SignedDistance:
    """The signed distance from `mesh` and the colour of its surface, at any points.

    The surface is replaced by `samples` points with the normals of their triangles. The distance is too large by up to
    about the distance of neighbouring samples, sqrt(area / samples); the side is that of the majority of the nearest.
    Limits: the mesh must be closed, with normals outwards; walls thinner than that distance have no sure inside.
    """

    def __init__(self, mesh: Mesh, samples: int = SAMPLES, seed: int = 0) -> None:
        import trimesh
        from scipy.spatial import cKDTree

        surface = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
        places, faces = trimesh.sample.sample_surface(surface, samples, seed=seed)
        corners = mesh.vertices[mesh.faces[faces]].astype(np.float64)
        weights = trimesh.triangles.points_to_barycentric(corners, places)
        self.places = np.asarray(places)
        self.normals = np.asarray(surface.face_normals)[faces]
        self.colors = np.einsum("nk,nkc->nc", weights, mesh.colors[mesh.faces[faces]]).clip(0.0, 1.0)
        self._tree = cKDTree(self.places)

    def __call__(self, points: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return distances [N] float32, negative inside, and the colours [N, 3] float32 sRGB of the nearest surface."""
        distance, nearest = self._tree.query(points, k=_VOTES)
        towards = np.asarray(points)[:, None] - self.places[nearest]
        side = np.einsum("nkd,nkd->nk", towards, self.normals[nearest]).mean(axis=1)
        signed = np.where(side < 0.0, -distance[:, 0], distance[:, 0])
        return signed.astype(np.float32), self.colors[nearest[:, 0]].astype(np.float32)
