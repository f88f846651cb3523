"""Optical flow of moving Gaussians, rendered as if displacements were colours."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.gaussians.rasterise import rasterise
from renderers.gaussians.renderer import GaussianRenderer
from renderers.motion.base import Moved
from renderers.motion.handles import GaussianHandle
from sds3d.cameras import Cameras
from sds3d.errors import ShapeError


def image_places(points: Tensor, cameras: Cameras) -> Tensor:
    """Return [B, P, 2], where points [P, 3] appear, pixels (x, y). Limits: points must be in front of the cameras."""
    matrix = cameras.world_to_cam.to(points)
    there = points @ matrix[:, :3, :3].transpose(1, 2) + matrix[:, None, :3, 3]
    image = there @ cameras.intrinsics.to(points).transpose(1, 2)
    return image[..., :2] / image[..., 2:]


def render_flow(renderer: GaussianRenderer, moved: Moved, first: int, second: int, cameras: Cameras) -> Tensor:
    """Return [B, H, W, 2], the way in pixels from frame `first` to frame `second`, seen at the pixels of the first.

    The gradient reaches the positions of both frames through their places in the image, and nothing else: neither
    opacities, shapes nor which Gaussian covers a pixel. 0 where there is nothing.
    Source: DreamScene4D's flow loss. Limits: the camera stands still between the frames.
    """
    frames = moved.points.shape[0]
    if not (0 <= first < frames and 0 <= second < frames):
        raise ShapeError("moved.points", f"more than {max(first, second)} frames", tuple(moved.points.shape))
    ways = image_places(moved.points[second], cameras) - image_places(moved.points[first], cameras)
    values = {name: value.detach() for name, value in GaussianHandle(renderer).values(moved, first).items()}
    channels = torch.cat([ways, torch.zeros_like(ways[..., :1])], dim=-1)
    image, _, _ = rasterise(
        values["means"],
        values["quats"],
        values["log_scales"].exp(),
        renderer.opacities.detach(),
        channels,
        cameras.world_to_cam,
        cameras.intrinsics,
        cameras.width,
        cameras.height,
        backend=renderer.settings.backend,
    )
    return image[..., :2]
