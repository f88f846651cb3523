"""Toybox objects as ordinary meshes: ground truth for surfaces, and assets to try exporters with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.meshing.mesh import Mesh
from sds3d.toybox.shape import ToyMesh

_SAME = 1e-5
"""Corners nearer than this, in world units, are one vertex."""


def mesh_from_toy(toy: ToyMesh) -> Mesh:
    """Return a toybox object with the corners of every part and colour joined, striped faces in one colour each.

    Limits: parts stay separate pieces that reach into each other, and hard edges are shaded softly.
    """
    face_colors = _face_colors(toy)
    corners = toy.corners.reshape(-1, 3).astype(np.float64)
    _, color = np.unique(np.rint(face_colors * 255).astype(np.int64), axis=0, return_inverse=True)
    group = np.stack([toy.parts.astype(np.int64), color.ravel()], axis=1).repeat(3, axis=0)
    key = np.concatenate([np.rint(corners / _SAME).astype(np.int64), group], axis=1)
    _, first, index = np.unique(key, axis=0, return_index=True, return_inverse=True)
    faces = index.reshape(-1, 3)
    is_sound = (faces != np.roll(faces, 1, axis=1)).all(axis=1)
    colors = face_colors.repeat(3, axis=0)[first]
    return Mesh(corners[first].astype(np.float32), faces[is_sound], colors.astype(np.float32))


def _face_colors(toy: ToyMesh) -> NDArray[np.floating]:
    """Return the sRGB [F, 3] at the middle of every face."""
    if toy.band_height <= 0.0:
        return toy.colors
    height = toy.corners[..., 2].mean(axis=1) - toy.corners[..., 2].min()
    is_banded = (height / toy.band_height).astype(np.int64) % 2 == 1
    return np.where(is_banded[:, None], toy.stripe_colors, toy.colors)
