"""Pictures of an asset as arrays: views of it, and several of them side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from renderers.base import Renderer
from sds3d.cameras import Cameras
from sds3d.export.atomic import atomic_path

PIXELS_AT_ONCE = 128 * 128
"""Views are drawn in groups of about this many pixels, so that memory does not grow with the length of a film."""


@torch.no_grad()
def draw(renderer: Renderer, cameras: Cameras, grey: float) -> tuple[Tensor, Tensor]:
    """Return rgb [B, H, W, 3] on plain `grey` and alpha [B, H, W, 1] of every camera, on the CPU, in [0, 1]."""
    device = next(renderer.parameters()).device
    group = max(1, PIXELS_AT_ONCE // (cameras.width * cameras.height))
    rgb, alpha = [], []
    for start in range(0, len(cameras), group):
        some = cameras[start : start + group].to(device)
        render = renderer(some, torch.full((len(some), 3), grey, device=device))
        rgb.append(render.rgb.clamp(0.0, 1.0).cpu())
        alpha.append(render.alpha.clamp(0.0, 1.0).cpu())
    return torch.cat(rgb), torch.cat(alpha)


def to_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return images in [0, 1] as 8-bit numbers, rounded."""
    return (images * 255.0).round().to(torch.uint8).numpy()


def write_strip(path: Path, images: Tensor) -> Path:
    """Write images [B, H, W, 3] in [0, 1] side by side as one PNG, atomically; return its path."""
    from PIL import Image

    strip = np.concatenate(list(to_bytes(images)), axis=1)
    with atomic_path(path) as temporary:
        Image.fromarray(strip).save(temporary)
    return path
