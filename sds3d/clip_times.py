"""When the frames of a clip are: times in [0, 1]. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from sds3d.errors import ConfigError


def frame_times(frames: int, is_loop: bool = False) -> tuple[float, ...]:
    """Return the time of each of `frames` frames: f / (F - 1), or f / F of a loop, whose time 1 is frame 0 again.

    Raises: ConfigError for fewer than two frames.
    """
    if frames < 2:
        raise ConfigError(
            f"A clip of {frames} frame{'' if frames == 1 else 's'} was asked for, but at least 2 are needed to show "
            "motion. Give 2 or more frames, or make a still picture.",
            "frames",
        )
    last = frames if is_loop else frames - 1
    return tuple(frame / last for frame in range(frames))


def check_times(times: Sequence[float]) -> None:
    """Raise ConfigError if there is no time or one lies outside [0, 1] (or is not a number)."""
    if not times:
        raise ConfigError("There is no time to show, but at least one is needed. Give times in [0, 1].", "time")
    wrong = [time for time in times if not 0.0 <= time <= 1.0]
    if wrong:
        raise ConfigError(
            f"The time {wrong[0]:g} lies outside the clip, whose first moment is 0 and last is 1. Give times in [0, 1].",
            "time",
        )
