"""From strokes in space to polylines in pictures: samples are projected, never control points."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.bezier import NEAR, radius_in_picture
from sds3d.cameras import Cameras


@dataclass(frozen=True)
class Polylines:
    """The pictures of N strokes in B views.

    Args:
        xy: [B, N, P, 2] pixels. depth: [B, N, P] camera z. radius: [B, N, P] pixels.
        is_drawn: [B, N, P - 1] bool: both ends of the piece are in front of the near plane and the stroke is alive.
    """

    xy: Tensor
    depth: Tensor
    radius: Tensor
    is_drawn: Tensor


def project(samples: Tensor, half_widths: Tensor, cameras: Cameras, alive: Tensor | None = None) -> Polylines:
    """Return where samples [N, P, 3] and radii [N] in world units lie in the pictures of all cameras.

    Radii are those of `bezier.radius_in_picture`. `alive` [N] bool says which strokes are drawn at all.
    """
    world_to_cam, intrinsics = cameras.world_to_cam.to(samples.dtype), cameras.intrinsics.to(samples.dtype)
    flat = samples.reshape(1, -1, 3)
    in_camera = flat @ world_to_cam[:, :3, :3].transpose(1, 2) + world_to_cam[:, None, :3, 3]
    in_camera = in_camera.view(len(cameras), *samples.shape)
    depth = in_camera[..., 2]
    safe = depth.clamp_min(NEAR)
    pixels = (in_camera.flatten(1, 2) @ intrinsics.transpose(1, 2)).view_as(in_camera)
    xy = pixels[..., :2] / safe[..., None]
    focal = (intrinsics[:, 0, 0] * intrinsics[:, 1, 1]).sqrt()[:, None, None]
    radius = radius_in_picture(half_widths[None, :, None], depth, focal, cameras.height)
    is_in_front = depth > NEAR
    is_drawn = is_in_front[..., 1:] & is_in_front[..., :-1]
    if alive is not None:
        is_drawn = is_drawn & alive[None, :, None]
    return Polylines(xy, depth, radius, is_drawn)


def is_visible(polylines: Polylines) -> Tensor:
    """Return a scalar bool: some piece of some stroke lies in front of some camera."""
    return torch.any(polylines.is_drawn)
