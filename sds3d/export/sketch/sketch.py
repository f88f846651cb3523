"""A sketch as plain numbers, with its motion: what the writers of sketch files take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import AssetError, ShapeError

Values = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Motion:
    """How strokes move over F frames: x = s R (X + D - c) + c + t.

    Args:
        similarity: [F, 8] scale s, unit quaternion R (wxyz), translation t of the whole sketch in each frame.
        centre: [3] c. offsets: [F, N, 3M + 1, 3] deformation D of the control points, or None.
        fps: frames a second, above 0. is_loop: whether the last frame is followed by the first.

    Raises: ShapeError; AssetError if there are fewer than 2 frames or fps is not above 0.
    """

    similarity: Values
    centre: Values
    offsets: Values | None = None
    fps: float = 8.0
    is_loop: bool = True

    def __post_init__(self) -> None:
        for name in ("similarity", "centre", "offsets"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, np.float64))
        if self.similarity.ndim != 2 or self.similarity.shape[1] != 8:
            raise ShapeError("similarity", "[frames, 8]", self.similarity.shape)
        if len(self.similarity) < 2:
            raise AssetError(f"A clip has {len(self.similarity)} frame, at least 2 are needed. Leave the motion out.")
        if self.centre.shape != (3,):
            raise ShapeError("centre", "[3]", self.centre.shape)
        if self.offsets is not None and len(self.offsets) != len(self.similarity):
            raise ShapeError("offsets", f"[{len(self.similarity)}, N, 3M + 1, 3]", self.offsets.shape)
        if not self.fps > 0:
            raise AssetError(f"A clip plays at {self.fps} frames a second, more than 0 are needed. Use 8.")

    def __len__(self) -> int:
        return len(self.similarity)

    def of(self, keep: NDArray[np.bool_]) -> Motion:
        """Return the motion of the strokes [N] that are kept; its centre stays."""
        return self if self.offsets is None else replace(self, offsets=self.offsets[:, keep])


@dataclass(frozen=True, kw_only=True)
class Sketch:
    """N strokes of M cubic segments.

    Args:
        points: [N, 3M + 1, 3] control points, world frame, float64. half_widths: [N] world units, above 0.
        opacities: [N] in [0, 1]. colours: [N, 3] sRGB in [0, 1].
        weights: [N, 3M + 1] rational weights above 0, or None: all 1.
        motion: how the strokes move, or None. prompt: the words it was made from.

    Raises: ShapeError; AssetError for no strokes and numbers that are not finite.
    """

    points: Values
    half_widths: Values
    opacities: Values
    colours: Values
    weights: Values | None = None
    motion: Motion | None = None
    prompt: str = ""

    def __post_init__(self) -> None:
        for name in ("points", "half_widths", "opacities", "colours", "weights"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, np.float64))
        shape = self.points.shape
        if len(shape) != 3 or shape[2] != 3 or shape[1] < 4 or shape[1] % 3 != 1:
            raise ShapeError("points", "[strokes, 3 * segments + 1, 3]", shape)
        if shape[0] == 0:
            raise AssetError(
                "The sketch has 0 strokes, at least 1 is needed. Train longer, or with control.drop: false."
            )
        wanted: dict[str, tuple[int, ...]] = {
            "half_widths": shape[:1],
            "opacities": shape[:1],
            "colours": (shape[0], 3),
        }
        wanted["weights"] = shape[:2]
        for name, expected in wanted.items():
            given: Any = getattr(self, name)
            if given is not None and given.shape != expected:
                raise ShapeError(name, str(list(expected)), given.shape)
            if given is not None and not np.isfinite(given).all():
                raise AssetError(f"The {name} of the sketch are not all finite numbers. Export an earlier checkpoint.")
        if not np.isfinite(self.points).all():
            raise AssetError("The points of the sketch are not all finite numbers. Export an earlier checkpoint.")
        offsets = None if self.motion is None else self.motion.offsets
        if offsets is not None and offsets.shape[1:] != shape:
            raise ShapeError("motion.offsets", f"[frames, {shape[0]}, {shape[1]}, 3]", offsets.shape)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def frames(self) -> int:
        """Number of frames; 1 without motion."""
        return 1 if self.motion is None else len(self.motion)

    def deformed(self, frame: int) -> Values:
        """Return [N, 3M + 1, 3], control points of a frame before the similarity moves them."""
        if self.motion is None or self.motion.offsets is None:
            return self.points
        return self.points + self.motion.offsets[frame]

    def points_at(self, frame: int) -> Values:
        """Return [N, 3M + 1, 3], control points of a frame, world frame."""
        if self.motion is None:
            return self.points
        scale, quat, shift = np.split(self.motion.similarity[frame], [1, 5])
        turned = (self.deformed(frame) - self.motion.centre) @ rotation_of(quat).T
        return scale * turned + self.motion.centre + shift

    def half_widths_at(self, frame: int) -> Values:
        """Return [N], half the widths in a frame: lines grow with the sketch."""
        return self.half_widths * (1.0 if self.motion is None else self.motion.similarity[frame, 0])


def rotation_of(quat: Values) -> Values:
    """Return the matrix [3, 3] of a quaternion wxyz, which need not be of length 1."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_quat(quat[[1, 2, 3, 0]]).as_matrix()
