"""Turn splats into another frame: centres, orientations and spherical harmonics."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.errors import ShapeError
from sds3d.export.splats import Splats

Matrix = NDArray[np.float64]

_DIRECTIONS = 64
"""Directions at which turned harmonics are compared; degree 3 has 7 unknowns, so this is plenty."""


def turned(splats: Splats, rotation: ArrayLike) -> Splats:
    """Return `splats` after the rotation [3, 3] (columns: where the axes go), looking the same from turned cameras.

    Raises: ShapeError if rotation is not a [3, 3] matrix of determinant 1 with orthonormal columns.
    """
    matrix = np.asarray(rotation, np.float64)
    if matrix.shape != (3, 3) or not np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-4) or np.linalg.det(matrix) < 0:
        raise ShapeError("rotation", "a [3, 3] rotation matrix", matrix.shape)
    means = splats.means.astype(np.float64) @ matrix.T
    is_zero = (splats.quats == 0.0).all(axis=1, keepdims=True)  # stands for no rotation, as in `Splats.rotations`
    quats = quaternion_product(_quaternion(matrix), np.where(is_zero, [1.0, 0.0, 0.0, 0.0], splats.quats))
    rest = None if splats.shN is None else _turned_harmonics(splats.shN, matrix)
    return Splats.of(means, quats, splats.log_scales, splats.opacity_logits, splats.sh0, rest)


def quaternion_product(first: Matrix, second: Matrix) -> Matrix:
    """Return the Hamilton product of wxyz quaternions [..., 4]: the rotation `second` followed by `first`."""
    w, x, y, z = np.moveaxis(first, -1, 0)
    a, b, c, d = np.moveaxis(second, -1, 0)
    parts = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c]
    parts += [w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a]
    return np.stack(parts, axis=-1)


def _quaternion(matrix: Matrix) -> Matrix:
    """Return the wxyz quaternion of a rotation matrix."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix).as_quat()[[3, 0, 1, 2]]


def _turned_harmonics(coefficients: NDArray[np.float32], matrix: Matrix) -> Matrix:
    """Return [N, K, 3] coefficients of the turned functions f'(d) = f(R^T d), degree by degree.

    A rotation mixes the coefficients of one degree only, by a square matrix. It is found from the values at fixed
    directions; the system is overdetermined and consistent, so the answer is exact up to rounding.
    """
    directions = np.random.default_rng(0).normal(size=(_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    result = np.array(coefficients, np.float64)
    degree, start = 1, 0
    while start < result.shape[1]:
        rows = slice(start, start + 2 * degree + 1)
        mixing = np.linalg.pinv(_basis(directions, degree)) @ _basis(directions @ matrix, degree)
        result[:, rows] = np.einsum("ij,njc->nic", mixing, result[:, rows])
        start, degree = rows.stop, degree + 1
    return result


def _basis(directions: Matrix, degree: int) -> Matrix:
    """Return the real harmonics [M, 2 degree + 1] of one degree, m = -degree .. degree, Condon-Shortley signs.

    Not normalised: factors that depend on |m| only are alike for +m and -m and those between different |m| matter, so
    the usual ones are applied up to one common factor of the degree.
    """
    from scipy.special import gamma, lpmv

    x, y, z = directions.T
    azimuth = np.arctan2(y, x)
    columns = []
    for order in range(-degree, degree + 1):
        m = abs(order)
        scale = np.sqrt(gamma(degree - m + 1) / gamma(degree + m + 1)) * (np.sqrt(2.0) if m else 1.0)
        wave = np.sin(m * azimuth) if order < 0 else np.cos(m * azimuth)
        columns.append(scale * lpmv(m, degree, z) * wave)
    return np.stack(columns, axis=1)
