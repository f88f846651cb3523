"""What a rasteriser tells about every pixel."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Fragments:
    """The nearest surface at the centres of B x H x W pixels.

    Args:
        face: [B, H, W] int64, row of `faces`, or -1 where nothing was hit.
        barycentric: [B, H, W, 3] perspective-correct weights of the face's three vertices, summing to 1 (0 where nothing
            was hit). Differentiable with respect to the clip coordinates.
        depth: [B, H, W] clip z / w in [-1, 1], 1 where nothing was hit. Differentiable likewise.
        backend: who drew it.
    """

    face: Tensor
    barycentric: Tensor
    depth: Tensor
    backend: str = "reference"

    @property
    def mask(self) -> Tensor:
        """[B, H, W] bool, whether a face was hit. Has no gradient: antialias it to get one."""
        return self.face >= 0
