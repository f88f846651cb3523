"""From displacements in pictures to displacements in space."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError

FLATTEST = 1e-3
"""Smallest over largest singular value of the stacked views below which they see a plane, not space."""


def reconstruct(moves: Tensor, jacobians: Tensor) -> Tensor:
    """Return the displacements [P, 3] that explain displacements in K pictures best, in the sense of least squares.

    Args:
        moves: [K, P, 2] pixels. jacobians: [K, P, 2, 3] pixels per world unit (see `jacobians_of`).
    Raises: ShapeError; ConfigError if the views do not determine all three directions, as one view alone never does.
    Source: 4-Doodle (arXiv 2510.25319), projection-reconstruction, as its abstract and summaries describe it. For front
        and side orthographic views it is (u_front, (v_front + v_side) / 2, u_side).
    Limits: linear; for perspective cameras repeat it with the new Jacobians (Gauss-Newton). Looks at values.
    """
    if moves.dim() != 3 or moves.shape[2] != 2 or jacobians.shape != (*moves.shape, 3):
        raise ShapeError("jacobians", f"[K, P, 2, 3] for moves [K, P, 2], here {tuple(moves.shape)}", jacobians.shape)
    stacked = jacobians.transpose(0, 1).flatten(1, 2)  # [P, 2 K, 3]
    known = moves.transpose(0, 1).flatten(1)[..., None]
    sizes = torch.linalg.svdvals(stacked) if stacked.shape[1] >= 3 else stacked.new_zeros(len(stacked), 3)
    flattest = float((sizes[:, -1] / sizes[:, 0].clamp(min=1e-30)).amin())
    if flattest < FLATTEST:
        raise ConfigError(
            f"The {len(moves)} view{'' if len(moves) == 1 else 's'} see two directions only (ratio of singular values "
            f"{flattest:.1e}, at least {FLATTEST:g} is needed), so depth is free. Add a view from another side.",
            "moves",
        )
    return torch.linalg.lstsq(stacked, known).solution[..., 0]


def jacobians_of(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return pixels [K, P, 2] of points [P, 3] in K cameras, and their derivatives [K, P, 2, 3] by the points."""
    world_to_cam, intrinsics = cameras.world_to_cam.to(points), cameras.intrinsics.to(points)
    seen = torch.einsum("kij,pj->kpi", world_to_cam[:, :3, :3], points) + world_to_cam[:, None, :3, 3]
    image = torch.einsum("kij,kpj->kpi", intrinsics, seen)
    pixels = image[..., :2] / image[..., 2:]
    by_seen = (intrinsics[:, None, :2] - pixels[..., None] * intrinsics[:, None, 2:]) / image[..., 2:, None]
    return pixels, by_seen @ world_to_cam[:, None, :3, :3]
