"""Functions of time in which paths are written: value(time) = sum over k of phi_k(time) * coefficient_k."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ConfigError, nearest


def bspline(times: Tensor, count: int, frames: int) -> Tensor:
    """Return uniform cubic B-splines [T, count]; `count` >= 4 controls span count - 3 pieces."""
    place = times[:, None] * (count - 3) + 1.0 - torch.arange(count, device=times.device, dtype=times.dtype)
    distance = place.abs()
    return ((2.0 - distance).clamp(min=0.0) ** 3 - 4.0 * (1.0 - distance).clamp(min=0.0) ** 3) / 6.0


def polynomial(times: Tensor, count: int, frames: int) -> Tensor:
    """Return time, time^2, ..., time^count."""
    return torch.stack([times**power for power in range(1, count + 1)], dim=1)


def fourier(times: Tensor, count: int, frames: int) -> Tensor:
    """Return sine and cosine of `count` // 2 harmonics; time 1 equals time 0."""
    angle = 2.0 * math.pi * times[:, None] * _numbers(times, count // 2)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def dct(times: Tensor, count: int, frames: int) -> Tensor:
    """Return cos(pi k (f + 1/2) / F) for k = 1 ... count, f = time (F - 1); the constant is left out."""
    return torch.cos(math.pi * _numbers(times, count) * (times[:, None] * (frames - 1) + 0.5) / frames)


def fenwick(times: Tensor, count: int, frames: int) -> Tensor:
    """Return which nodes a frame sums: node j (1 ... F - 1) covers frames (j - lowbit(j), j]; linear between frames.

    Frame f is the sum of the nodes f, f - lowbit(f), ..., at most log2(f) + 1 of them, so coarse nodes move many frames.
    """
    table = torch.zeros(frames, frames - 1)
    for frame in range(1, frames):
        node = frame
        while node > 0:
            table[frame, node - 1] = 1.0
            node -= node & -node
    frame_numbers = torch.arange(frames, device=times.device, dtype=times.dtype)
    near = (1.0 - (times[:, None] * (frames - 1) - frame_numbers).abs()).clamp(min=0.0)
    return near @ table.to(times)


def _numbers(times: Tensor, count: int) -> Tensor:
    return torch.arange(1, count + 1, device=times.device, dtype=times.dtype)


BASES: dict[str, Callable[[Tensor, int, int], Tensor]] = {
    "bspline": bspline,
    "polynomial": polynomial,
    "fourier": fourier,
    "dct": dct,
    "fenwick": fenwick,
}
"""Every basis by name: (times [T], count, frames) -> [T, count]."""
_LEAST = {"bspline": 4, "polynomial": 1, "fourier": 2, "dct": 1, "fenwick": 1}


@dataclass(frozen=True)
class Basis:
    """A basis that is 0 at the reference time, so that every path starts from rest whatever its coefficients.

    Args:
        kind: key of `BASES`. count: functions; None: the usual number for the clip. frames: frames of the clip.
        reference: time in [0, 1] of the rest pose.
    Raises: ConfigError for unknown kinds, too few functions, an odd number of "fourier", fewer than two frames.
    """

    kind: str
    frames: int
    count: int | None = None
    reference: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in BASES:
            raise ConfigError(f"The basis of time '{self.kind}' is unknown. Use {nearest(self.kind, BASES)}.", "basis")
        if self.frames < 2:
            raise ConfigError(f"A clip of {self.frames} frame(s) cannot move; give at least 2 frames.", "frames")
        least = _LEAST[self.kind]
        if self.size < least or (self.kind == "fourier" and self.size % 2):
            raise ConfigError(
                f"The basis '{self.kind}' was given {self.size} functions, but it needs at least {least}"
                f"{' and an even number' if self.kind == 'fourier' else ''}. Give another count, or null.",
                "count",
            )

    @property
    def size(self) -> int:
        """Number of functions."""
        usual = {
            "bspline": max(4, math.ceil(self.frames / 3)),
            "polynomial": 3,
            "fourier": 6,
            "dct": max(4, math.ceil(self.frames / 3)),
            "fenwick": self.frames - 1,
        }
        return usual[self.kind] if self.count is None or self.kind == "fenwick" else self.count

    def at(self, times: Tensor) -> Tensor:
        """Return [T, size], the functions at `times` [T] minus their values at the reference time."""
        with_reference = torch.cat([times, torch.full_like(times[:1], self.reference)])
        values = BASES[self.kind](with_reference, self.size, self.frames)
        return values[:-1] - values[-1:]
