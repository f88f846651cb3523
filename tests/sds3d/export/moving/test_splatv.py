"""D1: the bytes of a .splatv file, read word by word as the player's shader reads them."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest

from sds3d.cameras import orbit
from sds3d.clip_times import frame_times
from sds3d.errors import AssetError, ConfigError
from sds3d.export.moving.splatv import fit_error, positions_of, read_splatv, write_splatv
from sds3d.export.splats import SH_C0, Splats

RNG = np.random.default_rng(4)
COUNT = 5
START, MOTION = RNG.uniform(-1, 1, (COUNT, 3)), 0.5 * RNG.standard_normal((3, COUNT, 3))
QUATS = RNG.standard_normal((COUNT, 4))
LOOKS = {
    "log_scales": RNG.standard_normal((COUNT, 3)) - 3.0,
    "opacity_logits": RNG.standard_normal(COUNT),
    "sh0": RNG.standard_normal((COUNT, 3)),
}


def places(time, degree=3):
    powers = (time - 0.5) ** np.arange(1, degree + 1)
    return START + np.einsum("k,knc->nc", powers, MOTION[:degree])


def clip(frames, move=places):
    return [Splats(move(t), QUATS * (-1) ** k, **LOOKS) for k, t in enumerate(frame_times(frames))]


def halves(word):
    return struct.unpack("<2e", struct.pack("<I", word))


def test_every_byte_is_where_the_player_looks_for_it(tmp_path):
    data = write_splatv(tmp_path / "a.splatv", clip(6), distance=3.0).read_bytes()
    magic, length = struct.unpack("<2I", data[:8])
    (chunk,) = json.loads(data[8 : 8 + length])
    assert magic == 0x674B and chunk["type"] == "splat"
    assert (chunk["texwidth"], chunk["texheight"], chunk["size"]) == (4096, 1, 4096 * 16)
    assert len(data) == 8 + length + chunk["size"]
    for number in range(COUNT):
        start = 8 + length + 64 * number
        words = struct.unpack("<16I", data[start : start + 64])
        assert np.allclose(struct.unpack("<3f", data[start : start + 12]), START[number], atol=1e-6)
        unit = QUATS[number] / np.linalg.norm(QUATS[number])
        assert np.allclose([*halves(words[3]), *halves(words[4])], unit, atol=1e-3)  # signs that alternate are no turn
        assert np.allclose(
            [*halves(words[5]), *halves(words[6])], [*np.exp(LOOKS["log_scales"][number]), 0.0], rtol=1e-3
        )
        rgb = np.clip(0.5 + SH_C0 * LOOKS["sh0"][number], 0, 1)
        opacity = 1 / (1 + np.exp(-LOOKS["opacity_logits"][number]))
        assert np.allclose(list(struct.pack("<I", words[7])), np.round(255 * np.array([*rgb, opacity])), atol=1)
        motion = [value for word in words[8:13] for value in halves(word)]
        assert np.allclose(motion, [*MOTION[:, number].ravel(), 0.0], atol=2e-3)
        assert np.allclose([*halves(words[13]), *halves(words[14])], 0.0, atol=1e-3)
        assert halves(words[15]) == (0.5, 1e4)
    centre, width = halves(struct.unpack("<I", data[8 + length + 64 * COUNT + 60 : 8 + length + 64 * COUNT + 64])[0])
    assert all(np.exp(-(((t - centre) / width) ** 2)) < 0.02 for t in (0.0, 0.5, 1.0))  # the player leaves filling out


def test_positions_come_back_at_every_time_within_half_precision(tmp_path):
    frames = clip(6)
    words, _ = read_splatv(write_splatv(tmp_path / "a.splatv", frames))
    assert words.shape == (COUNT, 16)
    for time in (0.0, 0.13, 0.5, 1.0):
        assert np.abs(positions_of(words, time) - places(time)).max() < 1e-3
    assert fit_error(frames) < 1e-6


def test_what_is_no_cubic_is_fitted_and_its_error_told(tmp_path):
    def swing(time):
        return START + 0.1 * np.sin(4 * np.pi * time)

    frames = clip(9, swing)
    error = fit_error(frames)
    words, _ = read_splatv(write_splatv(tmp_path / "a.splatv", frames))
    found = np.stack([positions_of(words, t) for t in frame_times(9)])
    wanted = np.stack([frame.means for frame in frames])
    assert 0.05 < error < 0.15
    assert np.sqrt(np.square(found - wanted).sum(axis=2).mean()) == pytest.approx(error, abs=1e-3)
    two = clip(2)  # a straight way is all that two frames say
    words, _ = read_splatv(write_splatv(tmp_path / "b.splatv", two))
    assert np.abs(positions_of(words, 0.0) - two[0].means).max() < 2e-3


def test_the_first_camera_looks_at_the_front(tmp_path):
    import torch

    _, chunks = read_splatv(write_splatv(tmp_path / "a.splatv", clip(2), distance=3.0))
    camera = chunks[0]["cameras"][0]
    ours = orbit(*(torch.tensor([x]) for x in (0.0, 0.0, 3.0)), 45.0, 512, 512)
    assert np.allclose(camera["rotation"], ours.cam_to_world[0, :3, :3], atol=1e-6)
    assert np.allclose(camera["position"], ours.cam_to_world[0, :3, 3], atol=1e-6)
    assert camera["fx"] == pytest.approx(float(ours.intrinsics[0, 0, 0]), abs=0.1)


def test_a_full_row_is_one_row_and_one_more_is_two(tmp_path):
    for count, rows in ((1024, 1), (1025, 2)):
        still = Splats(
            np.zeros((count, 3)), np.ones((count, 4)), np.zeros((count, 3)), np.zeros(count), np.zeros((count, 3))
        )
        words, chunks = read_splatv(write_splatv(tmp_path / "a.splatv", [still, still]))
        assert len(words) == count and chunks[0]["texheight"] == rows


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="clip of 1 frame"):
        write_splatv(tmp_path / "a.splatv", clip(2)[:1])
    fewer = Splats(np.zeros((2, 3)), np.ones((2, 4)), np.zeros((2, 3)), np.zeros(2), np.zeros((2, 3)))
    with pytest.raises(AssetError, match="2 to 5 Gaussians"):
        write_splatv(tmp_path / "a.splatv", [*clip(2), fewer])
    (tmp_path / "b.splatv").write_bytes(b"12345678")
    with pytest.raises(AssetError, match="cannot be read as"):
        read_splatv(tmp_path / "b.splatv")
    whole = write_splatv(tmp_path / "c.splatv", clip(2)).read_bytes()
    (tmp_path / "c.splatv").write_bytes(whole[:-64])
    with pytest.raises(AssetError, match="cannot be read"):
        read_splatv(tmp_path / "c.splatv")
