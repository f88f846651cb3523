import numpy as np
import pytest

from sds3d.clip_times import check_times, frame_times
from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.toybox import clips
from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from sds3d.toybox.motions import MOTIONS, motion_vocabulary, motions_of, pairs, pose, pose_clip
from sds3d.toybox.palette import NOUNS, is_held_out
from sds3d.toybox.posing import Manner, Posing, draw_manner
from sds3d.toybox.shape import RADIUS

FRONT = (20.0, 15.0, 2.5)


def specimen(noun, seed=0, color="red"):
    return build(Description(noun=noun, color=color), np.random.default_rng(seed))


def face_lengths(corners):
    return np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)


def test_frame_times_and_their_errors():
    assert frame_times(5) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert frame_times(4, is_loop=True) == (0.0, 0.25, 0.5, 0.75)
    with pytest.raises(ConfigError, match=r"clip of 1 frame was asked.*at least 2"):
        frame_times(1)
    with pytest.raises(ConfigError, match="clip of -3 frames"):
        frame_times(-3)
    with pytest.raises(ConfigError, match=r"time 1\.5 lies outside"):
        check_times([0.0, 1.5])
    with pytest.raises(ConfigError, match="time nan"):
        check_times([float("nan")])
    with pytest.raises(ConfigError, match="no time"):
        check_times([])


@pytest.mark.parametrize(("noun", "motion"), pairs())
def test_every_pair_moves_in_every_step_and_stays_in_view(noun, motion):
    mesh = specimen(noun)
    posed = pose_clip(mesh, motion, frame_times(8, MOTIONS[motion].is_loop), Manner(phase=0.06))
    points = np.stack([one.corners for one in posed])
    assert np.linalg.norm(points, axis=-1).max() <= RADIUS + 1e-5
    assert np.isfinite(points).all() and np.isfinite([one.normals for one in posed]).all()
    steps = np.abs(np.diff(points, axis=0)).max(axis=(1, 2, 3))
    assert steps.max() > 0.03 and steps.min() > 1e-3
    for one in posed:
        assert np.allclose(np.linalg.norm(one.normals, axis=2), 1.0, atol=1e-3)
        assert one.colors is mesh.colors and one.part_names == mesh.part_names


@pytest.mark.parametrize("motion", [name for name, motion in MOTIONS.items() if motion.is_loop])
def test_loops_end_where_they_began(motion):
    mesh = specimen(MOTIONS[motion].nouns[0])
    manner = draw_manner(np.random.default_rng(4))
    assert np.allclose(pose(mesh, motion, 0.0, manner).corners, pose(mesh, motion, 1.0, manner).corners, atol=1e-5)


def test_a_waving_robot_moves_one_raised_arm_rigidly_about_its_shoulder_and_nothing_else():
    mesh = specimen("robot")
    posing = Posing(mesh)
    arm, other = posing.faces("arm", "hand", y=1.0), posing.faces("arm", "hand", y=-1.0)
    assert arm.sum() == other.sum() > 0 and not (arm & other).any()
    shoulder = mesh.corners[posing.faces("shoulder", y=1.0)].reshape(-1, 3)
    pivot = (shoulder.min(axis=0) + shoulder.max(axis=0)) / 2
    heights = []
    for time in frame_times(8, is_loop=True):
        moved = pose(mesh, "wave", time, Manner(side=1.0))
        assert np.array_equal(moved.corners[~arm], mesh.corners[~arm])
        before, after = (np.linalg.norm(m.corners[arm] - pivot, axis=2) for m in (mesh, moved))
        assert np.allclose(before, after, atol=1e-5)
        assert np.allclose(face_lengths(mesh.corners), face_lengths(moved.corners), atol=1e-5)
        heights.append(moved.corners[posing.faces("hand", y=1.0)][..., 2].mean())
    head = mesh.corners[posing.faces("head")][..., 2]
    assert min(heights[2:7]) > mesh.corners[posing.faces("shoulder", y=1.0)][..., 2].mean()  # up all the while
    assert np.mean(heights[2:7]) > head.min() - 0.1
    assert np.array_equal(pose(mesh, "wave", 0.0, Manner(side=1.0)).corners, mesh.corners)  # from rest
    assert pose(mesh, "wave", 0.1, Manner(side=-1.0)).corners[arm].tolist() == mesh.corners[arm].tolist()


def test_a_turn_is_a_rotation_about_the_upright_axis_of_the_right_angle():
    mesh = specimen("car")
    moved = pose(mesh, "turn", 0.25, Manner(side=1.0))
    x, y, z = np.moveaxis(mesh.corners, -1, 0)
    assert np.allclose(moved.corners, np.stack([-y, x, z], axis=-1), atol=1e-5)
    nx, ny, nz = np.moveaxis(mesh.normals, -1, 0)
    assert np.allclose(moved.normals, np.stack([-ny, nx, nz], axis=-1), atol=1e-5)


def test_wheels_roll_without_slipping():
    mesh = specimen("car")
    posing = Posing(mesh)
    wheel = posing.faces("wheel", x=1.0, y=1.0)
    low, high = posing.box(wheel)
    radius = (high - low)[2] / 2
    manner, step = Manner(), 1e-3
    bottom = np.unravel_index(mesh.corners[wheel][..., 2].argmin(), mesh.corners[wheel].shape[:2])
    here, there = (pose(mesh, "drive", time, manner).corners[wheel].astype(float) for time in (0.0, step))
    hub_speed = (there.mean(axis=(0, 1)) - here.mean(axis=(0, 1)))[0]
    assert hub_speed == pytest.approx(0.45 * 2 * np.pi * step, rel=0.05)
    assert abs((there - here)[bottom][0]) < 0.25 * hub_speed  # the point on the ground rests (18-sided wheel)
    assert radius > 0


def test_hops_stand_on_the_ground_or_above_it():
    mesh = specimen("duck")
    ground = mesh.corners[..., 2].min()
    lows = [pose(mesh, "hop", time).corners[..., 2].min() for time in frame_times(16, is_loop=True)]
    assert min(lows) == pytest.approx(ground, abs=1e-5) and max(lows) > ground + 0.4


def test_the_specimen_is_not_changed_and_equal_manners_give_equal_poses():
    mesh = specimen("dog")
    before = mesh.corners.copy()
    first, again = (pose(mesh, "walk", 0.3, Manner(size=1.1, phase=0.2)).corners for _ in range(2))
    assert np.array_equal(first, again) and np.array_equal(mesh.corners, before)


def test_words_motions_and_errors():
    assert "wave" in motions_of("robot") and "wave" not in motions_of("car")
    assert {"waving", "driving", "its"} <= set(motion_vocabulary())
    assert all(noun in NOUNS for noun, _ in pairs())
    with pytest.raises(ConfigError, match=r"no motion 'waves'.*'wave'"):
        pose(specimen("robot"), "waves", 0.0)
    with pytest.raises(ConfigError, match="outside the clip"):
        pose(specimen("robot"), "wave", -0.1)
    with pytest.raises(ConfigError, match="has no 'robots'"):
        motions_of("robots")
    with pytest.raises(ConfigError, match="does not suit a car"):
        clips.plain_prompt("car", "red", "wave")
    assert clips.plain_prompt("robot", "orange", "wave") == "an orange robot waving"


MOTION_WAVE = clips.MOTION_NAMES.index("wave")
CONFIG = clips.ClipConfig(clips=6, frames=3, size=24, seed=5, motions=("wave", "drive"))


def test_clips_follow_from_the_seed_and_come_back_from_disk_as_drawn(tmp_path):
    made = list(clips.make_clips(tmp_path, CONFIG, workers=0))
    assert len(made) == 1 and list(clips.make_clips(tmp_path, CONFIG, workers=0)) == []
    images, records = clips.load_clips(tmp_path, CONFIG)
    assert images.shape == (6, 3, 24, 24, 4) and images.dtype == np.uint8
    again = tmp_path / "again"
    list(clips.make_clips(again, CONFIG, workers=0))
    assert np.array_equal(images, clips.load_clips(again, CONFIG)[0])
    for index, record in enumerate(records):
        clip = clips.describe_clip(record)
        rng = np.random.default_rng([5, index])
        drawn = clips.draw_clip(index, CONFIG, rng)
        assert (clip.what, clip.motion) == (drawn.what, drawn.motion)
        assert clip.manner.phase == pytest.approx(drawn.manner.phase)
        assert not is_held_out(clip.what.noun, clip.what.color)
        assert record["motion"] != MOTION_WAVE or clip.manner.side * np.sin(np.radians(record["azimuth"])) >= 0.0
        moves = np.abs(np.diff(images[index].astype(int), axis=0)).max() > 0
        assert moves == bool(clip.motion)


def test_clips_from_rest_do_the_same_in_every_view():
    config = clips.ClipConfig(clips=40, frames=8, from_rest=True, motions=("wave",))
    drawn = [clips.draw_clip(index, config, np.random.default_rng(index)) for index in range(40)]
    assert {(clip.manner.side, clip.manner.phase) for clip in drawn} == {(1.0, 0.0)}
    assert len({clip.manner.size for clip in drawn}) == 40


def test_clips_are_seen_by_their_camera_and_composited_premultiplied():
    clip = clips.ClipDescription(what=Description(noun="car", color="blue"), motion="turn", manner=Manner(side=1.0))
    still = clips.ClipDescription(what=clip.what, motion="", manner=Manner())
    turning = clips.render_clip(clip, (0.0, 15.0, 2.5), 4, 32, np.random.default_rng(0)).astype(int)
    # A car that turns by +90 degrees looks like a camera that goes by -90.
    orbit = [(-90.0 * k, 15.0, 2.5) for k in range(4)]
    circled = clips.render_clip(still, orbit, 4, 32, np.random.default_rng(0)).astype(int)
    scale = np.abs(turning - circled).mean()
    assert scale < 3.0 < np.abs(turning - circled[::-1]).mean()
    flat = clips.composite(turning.astype(np.uint8), (0.0, 1.0, 0.0))
    assert flat.shape == (4, 32, 32, 3) and flat.dtype == np.float32
    assert flat[0, 0, 0].tolist() == [0.0, 1.0, 0.0] and flat.max() <= 1.0 + 1e-6


def test_captions_name_what_moves():
    clip = clips.ClipDescription(what=Description(noun="robot", color="red"), motion="wave", manner=Manner())
    assert clips.clip_phrase(clip) == "a red robot waving"
    rng = np.random.default_rng(0)
    said = [clips.clip_caption(clip, 0.0, 0.0, rng) for _ in range(2000)]
    assert 0.09 < np.mean([text == "" for text in said]) < 0.15
    assert {"a red robot waving", "a robot waving", "a red robot waving, front view"} <= set(said)
    assert "robot" in clips.nouns_that_move() and "table" not in clips.nouns_that_move()


def test_wrong_sets_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="clip of 1 frame"):
        clips.ClipConfig(frames=1)
    with pytest.raises(ConfigError, match="clips is 0"):
        clips.ClipConfig(clips=0)
    with pytest.raises(ConfigError, match="no motion 'fly_away'"):
        clips.ClipConfig(motions=("fly_away",))
    with pytest.raises(ConfigError, match="no pairs 'none'"):
        clips.ClipConfig(pairs="none")
    with pytest.raises(ConfigError, match="still_share is 2"):
        clips.ClipConfig(still_share=2)
    with pytest.raises(AssetError, match=r"missing from the set.*make_clips"):
        clips.load_clips(tmp_path, CONFIG)
    clip = clips.ClipDescription(what=Description(noun="car", color="blue"), motion="drive", manner=Manner())
    with pytest.raises(ShapeError, match="orbit_deg"):
        clips.render_clip(clip, [FRONT] * 2, 3, 24, np.random.default_rng(0))
