"""T3Bench's protocol against its description, written out by hand here."""

import math

import numpy as np
import pytest
import torch
import trimesh

from sds3d.errors import ShapeError
from sds3d.metrics.quality import FOVS_DEG, RADIUS, quality, quality_cameras, sphere


def by_hand(ratings: np.ndarray) -> float:
    """The protocol with a dictionary and a loop: best lens, three rounds of averaging with neighbours, best corner."""
    ball = trimesh.creation.icosphere(subdivisions=2)
    scores = {corner: max(row) for corner, row in enumerate(ratings)}
    for _ in range(3):
        smooth = {}
        for corner, neighbours in enumerate(ball.vertex_neighbors):
            values = [scores[corner], *(scores[other] for other in neighbours)]
            smooth[corner] = sum(values) / len(values)
        scores = smooth
    return max(scores.values())


def test_it_is_the_protocol() -> None:
    ratings = np.random.default_rng(3).normal(size=(162, 5))
    assert quality(ratings).score == pytest.approx(by_hand(ratings), rel=1e-12)


def test_the_sphere_has_162_corners_with_five_or_six_neighbours() -> None:
    corners, average = sphere()
    assert corners.shape == (162, 3) and np.allclose(np.linalg.norm(corners, axis=1), 1.0)
    assert sorted(set((average > 0).sum(axis=1))) == [6, 7]  # with the corner itself
    assert ((average > 0).sum(axis=1) == 6).sum() == 12  # those of the icosahedron
    assert np.allclose(average.sum(axis=1), 1.0)


def test_equal_ratings_stay_and_a_linear_map_may_come_before_or_after() -> None:
    assert quality(np.full((162, 5), 0.3)).score == pytest.approx(0.3)
    ratings = np.random.default_rng(0).normal(size=(162, 5))
    assert quality(20 * ratings + 50).score == pytest.approx(20 * quality(ratings).score + 50)


def test_one_lucky_view_counts_little_and_a_good_side_much() -> None:
    corners, _ = sphere()
    lucky, side = np.zeros((162, 5)), np.zeros((162, 5))
    lucky[17, 2] = 1.0
    side[corners[:, 0] > 0.3] = 1.0  # the front third
    assert quality(lucky).score < 0.25
    found = quality(side)
    assert found.score == pytest.approx(1.0) and abs(found.azimuth_deg) < 90 and found.worst == 0.0


def test_cameras_are_at_the_corners_with_five_lenses_each() -> None:
    cameras = quality_cameras(32)
    corners, _ = sphere()
    assert len(cameras) == 810
    position = cameras.cam_to_world[:, :3, 3].numpy()
    assert np.allclose(position, RADIUS * np.repeat(corners, 5, axis=0), atol=1e-5)
    forward = cameras.cam_to_world[:, :3, 2].numpy()
    assert np.allclose(forward, -np.repeat(corners, 5, axis=0), atol=1e-5)  # they look at the origin
    focal = [16 / math.tan(math.radians(fov) / 2) for fov in FOVS_DEG]
    assert torch.allclose(cameras.intrinsics[:5, 0, 0], torch.tensor(focal))
    assert torch.allclose(cameras.intrinsics[5:10], cameras.intrinsics[:5])


def test_another_number_of_corners_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"\[162, fields of view\]"):
        quality(np.zeros((42, 5)))
