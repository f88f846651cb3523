"""Keys of node animations in glTF: what writers of moving meshes and of moving sketches share. Imports no torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.export.sketch.sketch import Motion

Values = NDArray[np.float64]


def scale_keys(motion: Motion) -> Values:
    """Return the scale of a node in each frame, [F, 3]."""
    return np.repeat(motion.similarity[:, :1], 3, axis=1)


def turn_keys(motion: Motion) -> Values:
    """Return unit quaternions xyzw [F, 4] in our world frame, each on the shorter way from the one before."""
    quats = motion.similarity[:, [2, 3, 4, 1]]
    quats = quats / np.linalg.norm(quats, axis=1, keepdims=True)
    for frame in range(1, len(quats)):
        quats[frame] *= 1.0 if quats[frame] @ quats[frame - 1] >= 0.0 else -1.0
    return quats


def changes(keys: Values) -> bool:
    """Return whether keys [F, n] differ between frames, so that a track of them says anything."""
    return bool(np.ptp(keys, axis=0).max() > 1e-9)


def closed(keys: Values, motion: Motion) -> Values:
    """Return keys [F, n], of a loop followed by its first frame."""
    return np.concatenate([keys, keys[:1]]) if motion.is_loop else keys


def linear_animation(clock: int, outputs: list[tuple[int, str, int]]) -> dict[str, Any]:
    """Return an animation with linear samplers; `clock` is the accessor of times, outputs are (node, path, accessor)."""
    samplers = [{"input": clock, "output": output, "interpolation": "LINEAR"} for _, _, output in outputs]
    channels = [{"sampler": k, "target": {"node": node, "path": path}} for k, (node, path, _) in enumerate(outputs)]
    return {"name": "motion", "samplers": samplers, "channels": channels}
