"""Which clips a model takes, and how it says no."""

from __future__ import annotations

import pytest

from sds3d.errors import ConfigError
from sds3d.priors.video.base import FrameRule

WAN, COGVIDEOX, LTX, PICTURES, LIMITED = (
    FrameRule(stride=4, first=1),
    FrameRule(stride=4, first=1, step=8),
    FrameRule(stride=8, first=1),
    FrameRule(),
    FrameRule(most=32),
)


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        (WAN, {5: 2, 9: 3, 81: 21}, [0, 1, 4, 6, 8, 80]),
        (COGVIDEOX, {9: 3, 49: 13}, [1, 5, 13, 48]),
        (LTX, {9: 2, 17: 3, 161: 21}, [1, 5, 13, 16]),
        (PICTURES, {2: 2, 3: 3, 24: 24}, [0, 1]),
        (LIMITED, {2: 2, 32: 32}, [1, 33]),
    ],
)
def test_numbers_of_frames(rule: FrameRule, allowed: dict[int, int], refused: list[int]) -> None:
    for frames, latents in allowed.items():
        assert rule.check(frames, "x") == frames and rule.latent_frames(frames) == latents
    for frames in refused:
        assert not rule.allows(frames)


@pytest.mark.parametrize(
    ("rule", "frames", "message"),
    [
        (WAN, 1, r"1 frame, but the video prior 'wan' takes 4 k \+ 1 frames from 5\. Set frames to 5\."),
        (WAN, 8, r"8 frames, .* Set frames to 5 or 9\."),
        (COGVIDEOX, 50, r"8 k \+ 1 frames from 9\. Set frames to 49 or 57\."),
        (LTX, 14, r"8 k \+ 1 frames from 9\. Set frames to 9 or 17\."),
        (PICTURES, 1, r"takes any number of frames from 2\. Set frames to 2\."),
        (LIMITED, 40, r"any number of frames from 2 to 32\. Set frames to 32\."),
    ],
)
def test_messages_name_the_nearest_that_works(rule: FrameRule, frames: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rule.check(frames, "wan")
