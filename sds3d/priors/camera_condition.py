"""Camera features for priors that know from where an image was seen (class-embedding inputs of the UNet)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sds3d.conventions import OPENCV_TO_OPENGL

FOURIER_FREQUENCIES = (1, 2, 3, 4)
"""Harmonics of azimuth and elevation in the "fourier" condition: four tell apart views 45 degrees apart, and more."""

FEATURE_SIZES = {"extrinsics": 16, "fourier": 16 + 4 * len(FOURIER_FREQUENCIES)}


def encode_cameras(cam_to_world: Tensor, kind: str) -> Tensor:
    """Return [B, D] camera features of `cam_to_world` ([B, 4, 4], OpenCV axes); D is `FEATURE_SIZES[kind]`.

    "extrinsics": the 4x4 matrix in OpenGL axes, flattened row by row, translation scaled to unit length.
    "fourier": the same 16 numbers, then cos and sin of 1..4 times azimuth and elevation of the camera position.
    All zeros mean "no camera". The input is not changed.

    Raises: KeyError for an unknown kind. Source: MVDream (arXiv 2308.16512), section 3.1, for the 16 numbers; the
    harmonics are ours, meant to make azimuth easier for a small network; the bare matrix was not compared.
    """
    flip = torch.tensor(OPENCV_TO_OPENGL, device=cam_to_world.device, dtype=cam_to_world.dtype)
    matrix = cam_to_world * flip
    position = cam_to_world[:, :3, 3]
    unit = position / (position.norm(dim=1, keepdim=True) + 1e-8)
    scaled = torch.cat([torch.cat([matrix[:, :3, :3], unit[:, :, None]], dim=2), matrix[:, 3:]], dim=1)
    flat = scaled.flatten(1)
    if FEATURE_SIZES[kind] == 16:
        return flat
    angle = torch.stack([torch.atan2(unit[:, 1], unit[:, 0]), torch.asin(unit[:, 2].clamp(-1.0, 1.0))], dim=1)
    order = torch.tensor(FOURIER_FREQUENCIES, device=flat.device, dtype=flat.dtype)
    phase = (angle[:, :, None] * order).flatten(1)
    return torch.cat([flat, math.sqrt(2.0) * torch.cos(phase), math.sqrt(2.0) * torch.sin(phase)], dim=1)
