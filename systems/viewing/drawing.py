"""What a page shows, as arrays: pictures from a browser's camera, splats for a browser, curves, pulls of the guidance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from renderers.base import Renderer
from renderers.dynamic import DynamicRenderer
from sds3d.cameras import Cameras
from sds3d.export.images import to_bytes
from sds3d.export.splats import SH_C0, Splats

Array = NDArray[np.float32]
PAPER, INK, FAINT, LINE = (255, 255, 255), (60, 62, 66), (225, 227, 230), (37, 99, 235)
CURVE_SIZE = (480, 220)


def camera_of(wxyz: Any, position: Any, fov_rad: float, aspect: float, height: int) -> Cameras:
    """Return a browser's camera as ours. viser has our axes: +Z up, cameras x right, y down, z forward.

    wxyz, position: of the camera in the world. fov_rad: vertical. aspect: width / height. height: of the picture, pixels.
    """
    w, x, y, z = np.asarray(wxyz, np.float64) / np.linalg.norm(wxyz)
    rotation = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    place = np.asarray(position, np.float64)
    matrix = torch.eye(4)
    matrix[:3, :3], matrix[:3, 3] = torch.tensor(rotation), torch.tensor(place)
    width = max(8, round(height * aspect))
    focal = 0.5 * height / math.tan(0.5 * fov_rad)
    distance = float(np.linalg.norm(place))
    return Cameras(
        cam_to_world=matrix[None],
        intrinsics=torch.tensor([[[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]]]),
        width=width,
        height=height,
        azimuth_deg=torch.tensor([math.degrees(math.atan2(place[1], place[0]))]),
        elevation_deg=torch.tensor([math.degrees(math.asin(max(-1.0, min(1.0, place[2] / max(distance, 1e-9)))))]),
        distance=torch.tensor([distance]),
    )


@torch.no_grad()
def picture(renderer: Renderer, camera: Cameras, grey: float, time: float | None = None) -> NDArray[np.uint8]:
    """Return one picture [H, W, 3] on plain `grey`; `time` in [0, 1] is the moment of an asset that moves."""
    device = next(renderer.parameters()).device
    background = torch.full((1, 3), grey, device=device)
    if time is not None and isinstance(renderer, DynamicRenderer):
        render = renderer.show(camera.to(device), background, [time])
    else:
        render = renderer.show(camera.to(device), background)
    shown: NDArray[np.uint8] = to_bytes(render.rgb.clamp(0.0, 1.0).cpu())[0]
    return shown


def browser_splats(splats: Splats) -> tuple[Array, Array, Array, Array]:
    """Return centers [N, 3], covariances [N, 3, 3], rgbs [N, 3] in [0, 1] and opacities [N, 1] in (0, 1).

    Limits: colours that depend on the direction are shown as they are on average.
    """
    w, x, y, z = (splats.quats / np.maximum(np.linalg.norm(splats.quats, axis=1, keepdims=True), 1e-12)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    axes = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2) * np.exp(splats.log_scales)[:, None, :]
    opacities = 1.0 / (1.0 + np.exp(-splats.opacity_logits.astype(np.float64)))
    return (
        splats.means,
        (axes @ axes.transpose(0, 2, 1)).astype(np.float32),
        np.clip(0.5 + SH_C0 * splats.sh0, 0.0, 1.0).astype(np.float32),
        opacities[:, None].astype(np.float32),
    )


def pull(rgb: torch.Tensor, gradient: torch.Tensor | None, most: int = 4) -> NDArray[np.uint8]:
    """Return the pictures of a step in a row and, below, where the losses pull them: brighter, darker, grey as it is.

    rgb, gradient: [B, H, W, C] of the loss; the pull is minus the gradient, its largest value drawn as full contrast. Of
    latents the first three channels are shown. No gradient: the pictures alone.
    """
    count = min(most, len(rgb))
    shown = _three(rgb.detach()[:count])
    if shown.shape[-1] != rgb.shape[-1] or rgb.shape[-1] != 3:  # latents have no range: stretch them
        shown = (shown - shown.amin()) / (shown.amax() - shown.amin()).clamp(min=1e-12)
    rows = [torch.cat(list(shown.clamp(0.0, 1.0)), dim=1)]
    if gradient is not None:
        change = -_three(gradient.detach()[:count]).float()
        rows.append(torch.cat(list(0.5 + 0.5 * change / change.abs().amax().clamp(min=1e-30)), dim=1))
    return to_bytes(torch.cat(rows).float().cpu()[None])[0]


def _three(images: torch.Tensor) -> torch.Tensor:
    """Return three channels: the first three, or grey copies of the first."""
    return images[..., :3] if images.shape[-1] >= 3 else images[..., :1].expand(*images.shape[:-1], 3)


def curve(points: Sequence[tuple[float, float]], name: str) -> NDArray[np.uint8]:
    """Return a line through (step, value) points as a picture; what is not finite is left out."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = CURVE_SIZE
    page = Image.new("RGB", CURVE_SIZE, PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    kept = [(step, value) for step, value in points if math.isfinite(value)]
    left, top, right, bottom = 8, 28, width - 8, height - 24
    for part in range(5):
        y = top + (bottom - top) * part / 4
        pen.line([(left, y), (right, y)], fill=FAINT)
    if not kept:
        pen.text((left, 6), f"{name}: nothing yet", fill=INK, font=font)
        return np.asarray(page)
    steps, values = zip(*kept, strict=True)
    low, high = min(values), max(values)
    across, up = max(steps[-1] - steps[0], 1e-9), (high - low) or 1.0
    line = [
        (left + (right - left) * (s - steps[0]) / across, bottom - (bottom - top) * (v - low) / up)
        for s, v in zip(steps, values, strict=True)
    ]
    if len(line) > 1:
        pen.line(line, fill=LINE, width=2)
    pen.ellipse([line[-1][0] - 3, line[-1][1] - 3, line[-1][0] + 3, line[-1][1] + 3], fill=LINE)
    pen.text((left, 6), f"{name}: {values[-1]:.4g}    lowest {low:.4g}, highest {high:.4g}", fill=INK, font=font)
    pen.text((left, bottom + 5), f"step {steps[0]:g} to {steps[-1]:g}", fill=INK, font=font)
    return np.asarray(page)
