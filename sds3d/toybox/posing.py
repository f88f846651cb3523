"""A toybox object on its way to a pose: which faces move together, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.toybox.shape import ToyMesh

Array = NDArray[np.floating[Any]]
Faces = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How one clip plays its motion: `size` of the swing (1 is usual, 0.8 to 1.2), `side` (-1 or 1) and `phase` [0, 1)."""

    size: float = 1.0
    side: float = 1.0
    phase: float = 0.0


def draw_manner(rng: np.random.Generator) -> Manner:
    """Return a random manner."""
    return Manner(size=rng.uniform(0.8, 1.2), side=float(rng.choice([-1.0, 1.0])), phase=rng.random())


class Posing:
    """A specimen on its way to a pose: parts are turned, shifted and bent, always measured at rest.

    Args:
        mesh: the specimen at rest; not changed.
    """

    def __init__(self, mesh: ToyMesh) -> None:
        self.rest = mesh
        self.corners = mesh.corners.astype(np.float64)
        self.normals = mesh.normals.astype(np.float64)

    def faces(self, *names: str, x: float = 0.0, y: float = 0.0) -> Faces:
        """Return [F], the faces of parts; x, y of -1 or 1 keep those on that side of the parts' middle."""
        numbers = [number for number, name in enumerate(self.rest.part_names) if name in names]
        chosen = np.isin(self.rest.parts, numbers)
        if not chosen.any():
            return chosen
        centres = self.rest.corners.mean(axis=1)
        for axis, side in ((0, x), (1, y)):
            if side:
                middle = (centres[chosen, axis].min() + centres[chosen, axis].max()) / 2
                chosen = chosen & (side * (centres[:, axis] - middle) > 0)
        return chosen

    def box(self, faces: Faces) -> tuple[Array, Array]:
        """Return the lowest and highest corner [3] of faces, at rest (of the whole object if there are none)."""
        points = self.rest.corners[faces if faces.any() else slice(None)].reshape(-1, 3).astype(np.float64)
        return points.min(axis=0), points.max(axis=0)

    def turn(self, faces: Faces, matrix: Array, pivot: Array) -> None:
        """Rotate (or stretch) faces by a 3x3 matrix about a point; normals follow."""
        self.corners[faces] = (self.corners[faces] - pivot) @ matrix.T + pivot
        normals = self.normals[faces] @ np.linalg.inv(matrix)
        self.normals[faces] = normals / (np.linalg.norm(normals, axis=-1, keepdims=True) + 1e-12)

    def all_faces(self) -> Faces:
        """Return [F], all true."""
        return np.ones(len(self.corners), bool)

    def shift(self, faces: Faces, by: Array) -> None:
        """Translate faces."""
        self.corners[faces] = self.corners[faces] + by

    def bend(self, faces: Faces, by: Callable[[Array], Array]) -> None:
        """Shift every corner by a function of where it rests [..., 3]; normals stay (bends are gentle)."""
        self.corners[faces] = self.corners[faces] + by(self.rest.corners[faces].astype(np.float64))

    def mesh(self) -> ToyMesh:
        """Return the posed specimen."""
        return replace(self.rest, corners=self.corners.astype(np.float32), normals=self.normals.astype(np.float32))
