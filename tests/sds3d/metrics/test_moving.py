"""Measures of motion and identity against closed forms."""

import numpy as np
import pytest

from sds3d.errors import ShapeError
from sds3d.metrics import moving

RNG = np.random.default_rng(0)
REST = RNG.normal(size=(60, 3))
EDGES = moving.nearest_edges(REST)


def turned(angle):
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return REST @ turn.T


def test_what_stands_still_has_no_energy_and_no_drift():
    points = np.repeat(REST[None], 6, axis=0)
    report = moving.motion_report(points, REST)
    assert report["energy"] < 1e-12 and report["identity_drift"] < 1e-12
    assert report["moves"] is False and report["keeps_identity"] is True


def test_rigid_motion_has_energy_and_no_drift_whatever_the_scale():
    shift = np.array([0.5, 0.0, 0.0]) * moving.size_of(REST)
    points = np.stack([REST - shift, REST + shift])
    assert moving.motion_energy(points) == pytest.approx(0.5)
    assert moving.motion_energy(10 * points) == pytest.approx(0.5)
    rigid = np.stack([turned(a) for a in np.linspace(0, 2, 5)])
    assert moving.identity_drift(rigid, REST, EDGES) < 1e-12 < moving.motion_energy(rigid)


def test_growth_drifts_by_its_factor():
    points = np.stack([REST, 1.5 * REST])
    assert moving.identity_drift(points, REST, EDGES) == pytest.approx(0.25)  # 0 and 0.5, over two frames


def test_noise_jitters_and_steady_motion_does_not():
    steady = REST[None] + np.linspace(0, 1, 9)[:, None, None]
    assert moving.jitter(steady) < 1e-9
    assert moving.jitter(RNG.normal(size=(400, 20, 3))) == pytest.approx(3**0.5, abs=0.05)


@pytest.mark.parametrize("swings", [1, 2])
def test_jitter_of_a_swing_is_that_of_its_frames_and_falls_with_denser_ones(swings):
    """2 sin(pi k / F): two swings in eight frames give 1.41 however smooth they are."""
    for frames in (8, moving.DENSER * 8):
        angle = 2 * np.pi * swings * np.arange(frames) / frames
        found = moving.jitter(np.sin(angle[:, None, None] + RNG.uniform(0, 2 * np.pi, (1, 400, 3))))
        assert found == pytest.approx(2 * np.sin(np.pi * swings / frames), rel=0.05)
    assert found < moving.MOST_PATH_JITTER


def test_the_report_tells_smooth_paths_from_straight_ways_between_random_places():
    corners, place = RNG.normal(size=(9, 60, 3)), np.arange(32) / moving.DENSER
    share = (place % 1)[:, None, None]
    straight = (1 - share) * corners[place.astype(int)] + share * corners[place.astype(int) + 1]
    rough = moving.motion_report(corners[:8], REST, straight)
    assert rough["path_jitter"] == pytest.approx(0.85, abs=0.06) and rough["is_smooth"] is False
    smooth = np.stack([turned(0.4 * np.sin(angle)) for angle in 2 * np.pi * place / 8])
    assert moving.motion_report(smooth[:: moving.DENSER], REST, smooth)["is_smooth"] is True
    assert "is_smooth" not in moving.motion_report(corners, REST)


def test_pixels_moved_is_the_median_of_the_farthest_and_edges_join_neighbours():
    pixels = np.zeros((3, 5, 2))
    pixels[1, :, 0] = [0, 1, 2, 3, 40]
    assert moving.pixels_moved(pixels) == 2.0
    distances = np.linalg.norm(REST[:, None] - REST[None], axis=2)
    assert set(EDGES[EDGES[:, 0] == 7, 1]) == set(np.argsort(distances[7])[1:5])


def test_one_frame_is_refused():
    with pytest.raises(ShapeError, match="frames >= 2"):
        moving.motion_energy(REST[None])
