import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.metrics.turning import front_faces, opposite_likeness

AROUND = np.arange(8) * 45.0


def test_a_judge_that_is_right_sees_one_front() -> None:
    assert front_faces(AROUND, AROUND) == {"azimuth_within_45": 1.0, "false_fronts": 0.0, "front_seen": 1.0}
    assert front_faces(AROUND - 360.0, AROUND) == front_faces(AROUND, AROUND)


def test_a_second_face_is_counted() -> None:
    said = AROUND.copy()
    said[4] = 0.0  # the back was taken for a front: views at 135, 180 and 225 degrees are behind
    found = front_faces(said, AROUND)
    assert found["false_fronts"] == pytest.approx(1 / 3) and found["azimuth_within_45"] == pytest.approx(7 / 8)


def test_no_view_from_behind_gives_no_answer() -> None:
    assert front_faces(np.zeros(2), np.array([0.0, 30.0]))["false_fronts"] is None


def test_a_janus_object_looks_alike_from_both_sides() -> None:
    random = np.random.default_rng(0)
    half = random.uniform(size=(4, 16, 16, 3))
    assert opposite_likeness(np.concatenate([half, half])) == pytest.approx(1.0)
    assert opposite_likeness(random.uniform(size=(8, 16, 16, 3))) < 0.2


def test_errors() -> None:
    with pytest.raises(ShapeError, match="even number of views"):
        opposite_likeness(np.zeros((3, 16, 16, 3)))
    with pytest.raises(ShapeError, match="told_deg has shape"):
        front_faces(np.zeros(3), np.zeros(4))
