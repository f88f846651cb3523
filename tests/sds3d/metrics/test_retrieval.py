import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.metrics.retrieval import clip_points, hits, r_precision

TABLE = np.array([[0.9, 0.1, 0.2], [0.5, 0.4, 0.3], [0.1, 0.2, 0.3], [0.2, 0.3, 0.1]])


def test_r_precision_of_a_made_up_table() -> None:
    own = np.array([0, 1, 2, 0])  # ranks 1, 2, 1, 2
    assert hits(TABLE, own).tolist() == [1, 0, 1, 0]
    assert r_precision(TABLE, own) == 0.5
    assert r_precision(TABLE, own, depth=2) == 1.0


def test_a_table_without_information_scores_chance() -> None:
    assert r_precision(np.ones((5, 4)), np.arange(5) % 4) == pytest.approx(0.25)
    assert r_precision(np.ones((5, 4)), np.arange(5) % 4, depth=3) == pytest.approx(0.75)


def test_ties_with_one_other_count_half() -> None:
    assert hits(np.array([[0.7, 0.7, 0.1]]), np.array([0])).tolist() == [0.5]


def test_only_the_order_matters() -> None:
    table = np.random.default_rng(0).normal(size=(50, 9))
    own = np.random.default_rng(1).integers(9, size=50)
    assert r_precision(table, own) == r_precision(np.exp(3 * table), own)
    assert r_precision(table, own) == np.mean(table.argmax(axis=1) == own)


def test_clip_points_are_never_negative() -> None:
    assert clip_points(np.array([-0.2, 0.0, 0.31])).tolist() == pytest.approx([0.0, 0.0, 31.0])


def test_errors() -> None:
    with pytest.raises(ShapeError, match="one a row of a table"):
        hits(TABLE, np.array([0, 1]))
    with pytest.raises(ShapeError, match="more than 3 columns"):
        hits(TABLE, np.array([0, 1, 2, 3]))
    assert r_precision(np.zeros((0, 3)), np.zeros(0, int)) is None
