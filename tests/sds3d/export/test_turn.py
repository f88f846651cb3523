"""Turned splats look the same from turned cameras."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from renderers.gaussians import sh
from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import ShapeError
from sds3d.export.splats import Splats
from sds3d.export.turn import turned

Make = Callable[..., Splats]
TURN = Rotation.from_rotvec([0.4, -1.3, 0.7]).as_matrix()


def colours(splats: Splats, directions: np.ndarray) -> np.ndarray:
    """Return [N, M, 3] colours in M directions, by the renderer's own harmonics."""
    assert splats.shN is not None
    basis = sh.basis(torch.from_numpy(directions), {3: 1, 8: 2, 15: 3}[splats.shN.shape[1]]).numpy()
    return np.einsum("mk,nkc->nmc", basis, np.concatenate([splats.sh0[:, None], splats.shN], axis=1))


@pytest.mark.parametrize("rest", [3, 8, 15])
def test_colours_turn_with_the_splats(make_splats: Make, rest: int) -> None:
    splats = make_splats(4, rest)
    directions = np.random.default_rng(1).normal(size=(9, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    after = colours(turned(splats, TURN), directions @ TURN.T)
    np.testing.assert_allclose(after, colours(splats, directions), atol=1e-5)
    assert np.abs(after - colours(splats, directions @ TURN.T)).max() > 0.1  # the test could fail


@pytest.mark.parametrize("turn", [TURN, WORLD_TO_GLTF])
def test_centres_and_axes_turn(make_splats: Make, turn: np.ndarray) -> None:
    splats = make_splats(6)
    after, matrix = turned(splats, turn), np.asarray(turn)
    np.testing.assert_allclose(after.means, splats.means @ matrix.T, atol=1e-6)
    np.testing.assert_allclose(after.rotations, matrix @ splats.rotations, atol=1e-5)
    np.testing.assert_array_equal(after.log_scales, splats.log_scales)
    back = turned(after, matrix.T)
    np.testing.assert_allclose(back.means, splats.means, atol=1e-6)


@pytest.mark.parametrize("matrix", [2.0 * np.eye(3), np.diag([1.0, 1.0, -1.0]), np.eye(4)])
def test_only_rotations_are_taken(make_splats: Make, matrix: np.ndarray) -> None:
    with pytest.raises(ShapeError, match=r"rotation has shape .*, but a \[3, 3\] rotation matrix is needed"):
        turned(make_splats(2), matrix)
