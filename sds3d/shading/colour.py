"""Colour spaces and view transforms: from light to what a screen shows."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ConfigError, nearest

VIEW_TRANSFORMS = ("none", "srgb", "aces_srgb")
"""Names a checkpoint keeps: linear as it is; clipped and sRGB-encoded; ACES filmic curve, then sRGB-encoded."""

_POWER_BASE = 1e-6
"""Smallest base of the powers below: the branch that `where` throws away must have a finite gradient too."""


def srgb_from_linear(linear: Tensor) -> Tensor:
    """Return the sRGB encoding of linear Rec.709 values of any shape, >= 0 (not clipped above).

    Source: IEC 61966-2-1. Negative values stay on the linear piece.
    """
    curved = 1.055 * linear.clamp_min(_POWER_BASE).pow(1.0 / 2.4) - 0.055
    return torch.where(linear <= 0.0031308, 12.92 * linear, curved)


def linear_from_srgb(srgb: Tensor) -> Tensor:
    """Return linear Rec.709 values of an sRGB encoding of any shape; the inverse of `srgb_from_linear`."""
    curved = ((srgb + 0.055) / 1.055).clamp_min(_POWER_BASE).pow(2.4)
    return torch.where(srgb <= 0.04045, srgb / 12.92, curved)


def aces(linear: Tensor) -> Tensor:
    """Return ACES-filmic values in [0, 1] of linear values >= 0, any shape.

    Source: K. Narkowicz, ACES Filmic Tone Mapping Curve, 2015: x (2.51 x + 0.03) / (x (2.43 x + 0.59) + 0.14).
    Limits: a fit of the curve only, per channel, without the colour matrices of ACES.
    """
    x = linear.clamp_min(0.0)
    return (x * (2.51 * x + 0.03) / (x * (2.43 * x + 0.59) + 0.14)).clamp(0.0, 1.0)


def to_display(linear: Tensor, transform: str = "srgb") -> Tensor:
    """Return what pictures hold for linear light of any shape, by a name of `VIEW_TRANSFORMS`.

    Limits: "srgb" and "aces_srgb" clip at 1 (no gradient above); negative light becomes 0.
    Raises: ConfigError for an unknown name.
    """
    if transform == "none":
        return linear
    if transform == "srgb":
        return srgb_from_linear(linear.clamp(0.0, 1.0))
    if transform == "aces_srgb":
        return srgb_from_linear(aces(linear))
    known = nearest(transform, VIEW_TRANSFORMS)
    raise ConfigError(f"The view transform is '{transform}', which is unknown. Use {known}.", "view_transform")
