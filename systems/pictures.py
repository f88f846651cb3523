"""Pictures of an asset from any cameras, in groups, so that memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.base import Render, Renderer
from sds3d.cameras import Cameras
from sds3d.export.images import to_bytes

PIXELS_AT_ONCE = 128 * 128
"""Views are drawn in groups of about this many pixels."""


def draw(renderer: Renderer, cameras: Cameras, grey: float) -> tuple[Tensor, Tensor]:
    """Return rgb [B, H, W, 3] on plain `grey` and alpha [B, H, W, 1] of every camera, on the CPU, in [0, 1]."""
    renders = list(_groups(renderer, cameras, grey))
    rgb, alpha = ([getattr(render, name).clamp(0.0, 1.0).cpu() for render in renders] for name in ("rgb", "alpha"))
    return torch.cat(rgb), torch.cat(alpha)


def film(renderer: Renderer, cameras: Cameras, grey: float) -> NDArray[np.uint8]:
    """Return the pictures of every camera on plain `grey` as bytes [B, H, W, 3]."""
    return np.concatenate([to_bytes(render.rgb.cpu()) for render in _groups(renderer, cameras, grey)])


@torch.no_grad()
def _groups(renderer: Renderer, cameras: Cameras, grey: float) -> Iterator[Render]:
    device = next(renderer.parameters()).device
    size = max(1, PIXELS_AT_ONCE // (cameras.width * cameras.height))
    for start in range(0, len(cameras), size):
        some = cameras[start : start + size].to(device)
        yield renderer.show(some, torch.full((len(some), 3), grey, device=device))
