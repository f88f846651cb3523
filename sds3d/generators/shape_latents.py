"""Grids of shapes as a few numbers: a linear latent space in which a flow is cheap."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sds3d.errors import ShapeError

ROUNDS = 3
"""Passes over the grids; each makes the directions found more exact."""


class ShapeLatents(nn.Module):
    """Principal components of grids [N, 4, n, n, n], each scaled to mean 0 and standard deviation 1. Nothing is trained.

    One mean and one scale a number are how latent flows of shapes prepare their latents (microsoft/TRELLIS).
    Args: dim: numbers kept. size: nodes n along an edge. `fit` makes one from grids; an empty one is for loading.
    Limits: linear, so a mixture of two shapes is a blend of them and not a third shape.
    """

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.directions: Tensor
        self.scale: Tensor
        self.dim, self.size = dim, size
        self.register_buffer("mean", torch.zeros(4 * size**3))
        self.register_buffer("directions", torch.zeros(4 * size**3, dim))
        self.register_buffer("scale", torch.ones(dim))

    @classmethod
    def fit(cls, grids: Tensor, dim: int, generator: torch.Generator) -> ShapeLatents:
        """Return the latent space of `dim` numbers with the least squared error on `grids`, by subspace iteration.

        Raises: ShapeError unless there are more grids than numbers.
        """
        if len(grids) <= dim:
            raise ShapeError("grids", f"[more than {dim}, 4, n, n, n] (more grids than numbers)", tuple(grids.shape))
        made, rows = cls(dim, grids.shape[-1]), grids.flatten(1)
        made.mean = rows.mean(dim=0)
        centred = rows - made.mean
        found = torch.randn(len(rows), dim + 8, generator=generator).to(rows)
        for _ in range(ROUNDS):
            basis, _ = torch.linalg.qr(centred.T @ found)  # [4 n^3, dim + 8]
            found = centred @ basis
        _, values, right = torch.linalg.svd(found, full_matrices=False)
        made.directions = basis @ right[:dim].T
        made.scale = values[:dim] / len(rows) ** 0.5
        return made

    def encode(self, grids: Tensor) -> Tensor:
        """Return latents [N, dim]."""
        return (grids.flatten(1) - self.mean) @ self.directions / self.scale

    def decode(self, latents: Tensor) -> Tensor:
        """Return grids [N, 4, n, n, n]."""
        rows = (latents * self.scale) @ self.directions.T + self.mean
        return rows.view(len(latents), 4, self.size, self.size, self.size)
