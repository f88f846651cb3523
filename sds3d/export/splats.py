"""Gaussian splats as plain arrays, the form in which they cross floors and files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sds3d.errors import ShapeError

Array = NDArray[np.float32]

SH_C0 = 0.28209479177387814
"""Value of the spherical harmonic of degree 0: rgb = 0.5 + SH_C0 * sh0."""

REST_COUNTS = (0, 3, 8, 15)
"""Coefficients beyond degree 0 for spherical harmonics of degree 0, 1, 2 and 3."""


@dataclass(frozen=True)
class Splats:
    """N Gaussians as they are stored: before exp and sigmoid.

    Args:
        means: [N, 3] float32 centres, world frame of `sds3d.conventions`.
        quats: [N, 4] float32 wxyz, any length > 0. Columns of the rotation are the Gaussian's axes in the world.
        log_scales: [N, 3] float32, natural logarithm of the standard deviations.
        opacity_logits: [N] float32, opacity = sigmoid of it.
        sh0: [N, 3] float32, rgb (sRGB) = 0.5 + SH_C0 * sh0.
        shN: [N, K, 3] float32 with K of 3, 8 or 15 (degrees 1 to 3), or None for view-independent colour.

    Raises: ShapeError if a shape differs from the above; arrays are converted to float32.
    """

    means: Array
    quats: Array
    log_scales: Array
    opacity_logits: Array
    sh0: Array
    shN: Array | None = None

    def __post_init__(self) -> None:
        for name in ("means", "quats", "log_scales", "opacity_logits", "sh0", "shN"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, np.ascontiguousarray(value, dtype=np.float32))
        count = len(self.means) if self.means.ndim else 0
        widths: dict[str, tuple[int, ...]] = {
            "means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "sh0": (3,),
        }  # fmt: skip
        for name, rest in widths.items():
            shape = getattr(self, name).shape
            if shape != (count, *rest):
                raise ShapeError(f"Splats.{name}", f"{[count, *rest]} (N from means)", shape)
        if self.shN is not None:
            shape = self.shN.shape
            if len(shape) != 3 or shape[0] != count or shape[2] != 3 or shape[1] not in REST_COUNTS:
                raise ShapeError("Splats.shN", f"[{count}, K, 3] with K of 0, 3, 8 or 15", shape)

    @classmethod
    def of(
        cls,
        means: ArrayLike,
        quats: ArrayLike,
        log_scales: ArrayLike,
        opacity_logits: ArrayLike,
        sh0: ArrayLike,
        shN: ArrayLike | None = None,
    ) -> Splats:
        """Return splats of numbers of any type, rounded to float32."""
        means, quats, log_scales = (np.asarray(value, np.float32) for value in (means, quats, log_scales))
        opacity_logits, sh0 = np.asarray(opacity_logits, np.float32), np.asarray(sh0, np.float32)
        return cls(means, quats, log_scales, opacity_logits, sh0, None if shN is None else np.asarray(shN, np.float32))

    def __len__(self) -> int:
        return len(self.means)

    @property
    def opacities(self) -> Array:
        """[N] in (0, 1)."""
        return _sigmoid(self.opacity_logits)

    @property
    def rgb(self) -> Array:
        """[N, 3] sRGB of the view-independent part, clipped to [0, 1]."""
        return np.clip(0.5 + SH_C0 * self.sh0, 0.0, 1.0).astype(np.float32)

    @property
    def rotations(self) -> Array:
        """[N, 3, 3] rotation matrices of the normalised quaternions; a zero quaternion gives the identity."""
        return _rotations(self.quats)

    def where(self, keep: NDArray[np.bool_]) -> Splats:
        """Return the Gaussians for which `keep` [N] is true."""
        rest = None if self.shN is None else self.shN[keep]
        return Splats(
            self.means[keep], self.quats[keep], self.log_scales[keep], self.opacity_logits[keep], self.sh0[keep], rest
        )


def _sigmoid(x: Array) -> Array:
    return (0.5 * (1.0 + np.tanh(0.5 * x.astype(np.float64)))).astype(np.float32)


def _rotations(quats: Array) -> Array:
    length = np.linalg.norm(quats, axis=1, keepdims=True)
    w, x, y, z = np.where(length > 0.0, quats / np.maximum(length, 1e-12), [1.0, 0.0, 0.0, 0.0]).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows, np.float32).transpose(2, 0, 1)
