"""B12, second half: measures of tracks on tables made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.metrics.tracks import end_point_error, share_within, tap_measures

TRUE = np.zeros((2, 3, 2))
ERRORS = np.array([[0.0, 3.0, 20.0], [5.0, 0.5, 1.5]])
FOUND = np.stack([ERRORS, 0 * ERRORS], axis=2)
VISIBLE = np.array([[True, True, True], [True, True, False]])
SAID = np.array([[True, True, False], [True, True, True]])


def test_errors_count_where_the_truth_is_visible():
    found = end_point_error(FOUND, TRUE, VISIBLE)
    assert found == {"mean": pytest.approx((0 + 3 + 20 + 5 + 0.5) / 5), "median": 3.0}
    assert np.isnan(end_point_error(FOUND, TRUE, np.zeros((2, 3), bool))["mean"])


def test_shares_are_counted():
    assert share_within(FOUND, TRUE, VISIBLE, 4.0) == pytest.approx(3 / 5)
    assert share_within(FOUND, TRUE, VISIBLE, 3.0) == pytest.approx(2 / 5)  # within, not at


def test_tap_measures_are_those_of_the_table():
    found = tap_measures(FOUND, SAID, TRUE, VISIBLE)
    # Visible within 1, 2, 4, 8, 16 pixels: 2, 2, 3, 4, 4 of 5.
    assert found["delta_avg"] == pytest.approx((2 + 2 + 3 + 4 + 4) / 25)
    assert found["occlusion_accuracy"] == pytest.approx(4 / 6)
    # Right (said too): 2, 2, 3, 4, 4; said but wrong: 5 said minus right; over 5 visible plus wrong.
    assert found["average_jaccard"] == pytest.approx(np.mean([2 / 8, 2 / 8, 3 / 7, 4 / 6, 4 / 6]))


def test_perfect_tracks_score_1_and_shapes_are_checked():
    assert set(tap_measures(TRUE, VISIBLE, TRUE, VISIBLE).values()) == {1.0}
    with pytest.raises(ShapeError, match="tracks"):
        end_point_error(FOUND[0], TRUE[0], VISIBLE)
    with pytest.raises(ShapeError, match="visible"):
        end_point_error(FOUND, TRUE, VISIBLE[:1])
