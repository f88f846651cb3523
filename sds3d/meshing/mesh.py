"""A triangle mesh with colours at its vertices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError


@dataclass(frozen=True)
class Mesh:
    """V vertices and F triangles.

    Args:
        vertices: [V, 3] float32, world frame of `sds3d.conventions`.
        faces: [F, 3] int64 in [0, V), counter-clockwise seen from outside.
        colors: [V, 3] float32 sRGB in [0, 1].

    Raises: ShapeError if a shape differs from the above or a face names a vertex that does not exist.
    """

    vertices: NDArray[np.float32]
    faces: NDArray[np.int64]
    colors: NDArray[np.float32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vertices", np.ascontiguousarray(self.vertices, dtype=np.float32))
        object.__setattr__(self, "faces", np.ascontiguousarray(self.faces, dtype=np.int64))
        object.__setattr__(self, "colors", np.ascontiguousarray(self.colors, dtype=np.float32))
        for name, value in (("vertices", self.vertices), ("faces", self.faces)):
            if value.ndim != 2 or value.shape[1] != 3:
                raise ShapeError(f"Mesh.{name}", "[count, 3]", value.shape)
        if self.colors.shape != self.vertices.shape:
            raise ShapeError("Mesh.colors", f"{list(self.vertices.shape)} (one a vertex)", self.colors.shape)
        if len(self.faces) and not 0 <= self.faces.min() <= self.faces.max() < len(self.vertices):
            raise ShapeError(
                "Mesh.vertices", f"more than {int(self.faces.max())} rows (faces name them)", self.vertices.shape
            )

    @property
    def normals(self) -> NDArray[np.float32]:
        """[V, 3] unit vertex normals, averaged over the neighbouring triangles by area; 0 at unused vertices."""
        corners = self.vertices[self.faces].astype(np.float64)
        twice_area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        total = np.zeros((len(self.vertices), 3))
        for corner in range(3):
            for axis in range(3):
                total[:, axis] += np.bincount(self.faces[:, corner], twice_area[:, axis], len(total))
        length = np.linalg.norm(total, axis=1, keepdims=True)
        return (total / np.maximum(length, 1e-30)).astype(np.float32)
