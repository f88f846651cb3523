"""Numbers about pictures: distance to a reference, and how strong their colours are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sds3d.errors import ShapeError

Images = NDArray[np.floating]
BEST_PSNR = 100.0
"""Decibels reported for equal pictures, whose PSNR is infinite."""
SMALLEST = 11
"""Side of SSIM's window, pixels."""
CLIPPED = 0.02
"""A channel this near to 0 or 1 counts as clipped."""


def psnr(pictures: Images, references: Images) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each pair in decibels, 10 log10(1 / mean square error), at most 100.

    pictures, references: [B, H, W, C] in [0, 1]. Raises: ShapeError if they differ in shape.
    """
    _check_pair(pictures, references, 1)
    error = ((np.asarray(pictures, np.float64) - references) ** 2).mean(axis=(1, 2, 3))
    values: NDArray[np.float64] = np.minimum(-10.0 * np.log10(np.maximum(error, 1e-30)), BEST_PSNR)
    return values


def ssim(pictures: Images, references: Images) -> NDArray[np.float64]:
    """Return the structural similarity of each pair, in [-1, 1], 1 for equal pictures; the mean over channels.

    pictures, references: [B, H, W, C] in [0, 1], at least 11 pixels wide and high. Raises: ShapeError.
    Source: Wang et al. 2004, with its Gaussian window (sigma 1.5, 11 pixels) and K1 = 0.01, K2 = 0.03.
    """
    from skimage.metrics import structural_similarity

    _check_pair(pictures, references, SMALLEST)
    pairs = zip(np.asarray(pictures, np.float64), np.asarray(references, np.float64), strict=True)
    settings = {"channel_axis": -1, "data_range": 1.0, "gaussian_weights": True, "sigma": 1.5}
    return np.array([structural_similarity(a, b, use_sample_covariance=False, **settings) for a, b in pairs])


def colour_strength(images: Images, alpha: Images) -> dict[str, float | None]:
    """Return how strong the colours of the object are, over the pixels it covers by more than half.

    images: [B, H, W, 3] sRGB in [0, 1]. alpha: [B, H, W, 1] in [0, 1].
    Returns saturation, the mean of HSV's S = (max - min) / max; oversaturated, the share of pixels with S above 0.9;
        clipped, the share with a channel within 0.02 of 0 or 1; colourfulness (Hasler and Suesstrunk 2003, 8-bit
        scale). None for all where no pixel is covered.
    Limits: an object that is meant to be pure red is saturated and clipped; compare runs of one prompt.
    """
    _check_pair(images[..., :1], alpha, 1)
    pixels = np.asarray(images, np.float64)[np.asarray(alpha)[..., 0] > 0.5]
    if len(pixels) == 0:
        return dict.fromkeys(("saturation", "oversaturated", "clipped", "colourfulness"))
    highest, lowest = pixels.max(axis=1), pixels.min(axis=1)
    saturation = (highest - lowest) / np.maximum(highest, 1e-9)
    return {
        "saturation": float(saturation.mean()),
        "oversaturated": float((saturation > 0.9).mean()),
        "clipped": float(((lowest < CLIPPED) | (highest > 1.0 - CLIPPED)).mean()),
        "colourfulness": _colourfulness(255.0 * pixels),
    }


def _colourfulness(pixels: NDArray[np.float64]) -> float:
    """Return Hasler and Suesstrunk's M3 of pixels [N, 3] in [0, 255]."""
    red, green, blue = pixels.T
    opponents = np.stack([red - green, 0.5 * (red + green) - blue])
    spread, offset = np.linalg.norm(opponents.std(axis=1)), np.linalg.norm(opponents.mean(axis=1))
    return float(spread + 0.3 * offset)


def _check_pair(pictures: Images, references: Images, smallest: int) -> None:
    if pictures.shape != references.shape:
        raise ShapeError("references", f"{list(pictures.shape)} (that of the pictures)", references.shape)
    if pictures.ndim != 4 or min(pictures.shape[1:3], default=0) < smallest:
        raise ShapeError("pictures", f"[B, H, W, C] with H and W of at least {smallest}", pictures.shape)
