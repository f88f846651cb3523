"""From the world to clip space, and from pixels to the points of the image plane where they are sampled.

Clip space is that of OpenGL and nvdiffrast: visible points have -w <= x, y, z <= w with w > 0 the distance along the
camera's axis, z / w = -1 on the near plane and 1 on the far one. Image row 0 lies at y / w = -1, so +y points down in the
picture, as in OpenCV. The centre of pixel (row i, column j) is at x / w = (2 j + 1) / W - 1, y / w = (2 i + 1) / H - 1.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ConfigError, ShapeError

NEAR, FAR = 0.01, 100.0
"""World units; the near plane is that of the Gaussians."""


def clip_matrix(cameras: Cameras, near: float = NEAR, far: float = FAR) -> Tensor:
    """Return [B, 4, 4] matrices that take world points (x, y, z, 1) to clip space.

    near, far: world units along the camera's axis, 0 < near < far.
    Raises: ConfigError for planes in another order.
    """
    if not 0.0 < near < far:
        raise ConfigError(
            f"The clipping planes are near={near:g} and far={far:g}, but 0 < near < far is needed. Swap or move them.",
            "near",
        )
    intrinsics = cameras.intrinsics  # rows: (fx, skew, cx), (0, fy, cy), (0, 0, 1)
    matrix = torch.zeros_like(cameras.cam_to_world)
    matrix[:, 0, :3] = 2.0 / cameras.width * intrinsics[:, 0]
    matrix[:, 1, :3] = 2.0 / cameras.height * intrinsics[:, 1]
    matrix[:, :2, 2] -= 1.0
    matrix[:, 2, 2] = (far + near) / (far - near)
    matrix[:, 2, 3] = -2.0 * far * near / (far - near)
    matrix[:, 3, 2] = 1.0
    return matrix @ cameras.world_to_cam


def clip_from(cameras: Cameras, vertices: Tensor, near: float = NEAR, far: float = FAR) -> Tensor:
    """Return the clip coordinates [B, V, 4] of `vertices` [V, 3] or [B, V, 3] (world frame), in their dtype.

    Pixel (i, j) of a camera's picture is sampled at (j + 0.5, i + 0.5), the convention of its intrinsics.
    Raises: ShapeError; ConfigError for clipping planes in a wrong order.
    Limits: autocast is switched off inside, for positions do not survive 8-bit mantissas.
    """
    if vertices.shape[-1:] != (3,) or vertices.dim() not in (2, 3) or vertices.shape[:-2] not in ((), (len(cameras),)):
        raise ShapeError("vertices", f"[V, 3] or [{len(cameras)}, V, 3]", tuple(vertices.shape))
    with full_precision(vertices.device.type):
        matrix = clip_matrix(cameras, near, far).to(vertices.dtype)
        return vertices @ matrix[:, :, :3].transpose(1, 2) + matrix[:, None, :, 3]


def pixel_centres(height: int, width: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [W] and y [H], the clip x / w and y / w of pixel centres, on `like`'s device and in its dtype."""
    x = (2.0 * torch.arange(width, device=like.device, dtype=like.dtype) + 1.0) / width - 1.0
    y = (2.0 * torch.arange(height, device=like.device, dtype=like.dtype) + 1.0) / height - 1.0
    return x, y


def full_precision(device: str) -> AbstractContextManager[Any]:
    """Return a context without autocast, where the device knows autocast at all."""
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()
