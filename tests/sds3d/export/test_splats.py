"""Splats as arrays: shapes, derived values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.export.splats import SH_C0, Splats

Make = Callable[..., Splats]


def test_shapes_are_checked(make_splats: Make) -> None:
    s = make_splats(5)
    with pytest.raises(ShapeError, match=r"Splats.quats has shape \[5, 3\], but \[5, 4\] \(N from means\) is needed"):
        Splats(s.means, s.quats[:, :3], s.log_scales, s.opacity_logits, s.sh0)
    with pytest.raises(ShapeError, match=r"Splats.shN"):
        Splats(s.means, s.quats, s.log_scales, s.opacity_logits, s.sh0, np.zeros((5, 4, 3)))


def test_derived_values_follow_their_formulas(make_splats: Make) -> None:
    s = make_splats(6)
    np.testing.assert_allclose(s.opacities, 1 / (1 + np.exp(-s.opacity_logits)), rtol=1e-6)
    np.testing.assert_allclose(s.rgb, np.clip(0.5 + SH_C0 * s.sh0, 0, 1), rtol=1e-6)
    extreme = Splats(s.means, s.quats, s.log_scales, np.array([-1e4, 1e4, 0, 0, 0, 0]), s.sh0)
    np.testing.assert_array_equal(extreme.opacities[:3], [0, 1, 0.5])


def test_rotations_match_scipy_and_ignore_length(make_splats: Make) -> None:
    from scipy.spatial.transform import Rotation

    s = make_splats(6)
    expected = Rotation.from_quat(s.quats, scalar_first=True).as_matrix()
    scaled = Splats(s.means, 3.0 * s.quats, s.log_scales, s.opacity_logits, s.sh0)
    np.testing.assert_allclose(s.rotations, expected, atol=1e-6)
    np.testing.assert_allclose(scaled.rotations, expected, atol=1e-6)
