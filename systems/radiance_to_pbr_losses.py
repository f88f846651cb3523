"""Loss terms of radiance_to_pbr, and the mixture of baked and physical pictures itself."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def mix(raw: Tensor, physical: Tensor, progress: Tensor) -> Tensor:
    """Return progress * physical + (1 - progress) * raw: both display-referred [..., 3], progress [..., 1] in [0, 1].

    Source: Ye et al. 2024. The mixture interpolates: a sum of both would let either explain everything.
    """
    return raw + progress * (physical - raw)


def photometric(shown: Tensor, wanted: Tensor, dssim: float) -> Tensor:
    """Return (1 - dssim) * mean absolute error + dssim * structural dissimilarity of pictures [B, H, W, 3]."""
    error = (shown - wanted).abs().mean()
    return error if dssim == 0.0 else (1.0 - dssim) * error + dssim * structural_dissimilarity(shown, wanted)


def structural_dissimilarity(shown: Tensor, wanted: Tensor) -> Tensor:
    """Return (1 - SSIM) / 2 of pictures [B, H, W, C] in [0, 1], in [0, 1].

    Source: Wang et al. 2004 with an 11 x 11 Gaussian window of standard deviation 1.5; the half as in 3DGS's D-SSIM.
    """
    pair = torch.cat([shown, wanted, shown * shown, wanted * wanted, shown * wanted], dim=-1).permute(0, 3, 1, 2)
    line = _window(pair.device, pair.dtype)
    channels = pair.shape[1]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = line.view(shape).expand(channels, -1, -1, -1)
        pair = torch.nn.functional.conv2d(pair, kernel, padding="same", groups=channels)
    mean_a, mean_b, square_a, square_b, product = pair.chunk(5, dim=1)
    variance_a, variance_b = square_a - mean_a.square(), square_b - mean_b.square()
    covariance = product - mean_a * mean_b
    first, second = 0.01**2, 0.03**2
    above = (2.0 * mean_a * mean_b + first) * (2.0 * covariance + second)
    below = (mean_a.square() + mean_b.square() + first) * (variance_a + variance_b + second)
    return 0.5 * (1.0 - above / below).mean()


@functools.lru_cache(maxsize=4)
def _window(device: torch.device, dtype: torch.dtype) -> Tensor:
    place = torch.arange(-5, 6, dtype=torch.float64)
    weight = torch.exp(-0.5 * (place / 1.5).square())
    return (weight / weight.sum()).to(device, dtype)


def smoothness(values: Tensor, picture: Tensor, mask: Tensor) -> Tensor:
    """Return the mean change of `values` [B, H, W, C] between neighbouring pixels of the mask, less where `picture` changes.

    picture: [B, H, W, 3]; mask: [B, H, W, 1].
    Source: edge-aware total variation of GS-IR: |d a| exp(-|d I|), first order.
    """
    total = values.new_zeros(())
    for axis in (1, 2):
        size = values.shape[axis] - 1
        near, far = (lambda x, a=axis, n=size: x.narrow(a, 0, n)), (lambda x, a=axis, n=size: x.narrow(a, 1, n))
        both = (near(mask) * far(mask)).detach()
        edge = torch.exp(-(near(picture) - far(picture)).abs().mean(dim=-1, keepdim=True)).detach()
        total = total + ((near(values) - far(values)).abs() * edge * both).sum() / (both.sum() * values.shape[-1] + 1.0)
    return total


def normal_consistency(normal: Tensor, from_depth: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean of alpha (1 - cosine) between normals [B, H, W, 3] and those of the depth, which may be 0 at rims.

    Source: Huang et al. 2024 (2DGS); opacity is detached, or the term would make everything transparent.
    """
    known = (from_depth.square().sum(dim=-1, keepdim=True) > 0.25).to(alpha) * alpha.detach()
    return (known * (1.0 - (normal * from_depth).sum(dim=-1, keepdim=True))).sum() / (known.sum() + 1.0)


def closed_form_progress(physical: Tensor, raw: Tensor, weight: float) -> Tensor:
    """Return the progress that minimises |a phi + (1 - a) rho| + weight (1 - a)^2 for residuals phi, rho of any shape.

    Of equal signs it is clip(1 - (|phi| - |rho|) / (2 weight), 0, 1): physics may be worse by up to 2 weight (1 - a). Of
    opposite signs the mixture reaches 0 at a = rho / (rho - phi), and what lies beyond is as for equal signs.
    Source: our derivation (docs/radiance_to_pbr.md); the method learns the progress by descent, and tests compare.
    """
    slope = (physical.abs() - raw.abs()) / (2.0 * weight)
    same = (1.0 - slope).clamp(0.0, 1.0)
    zero = raw / torch.where(raw == physical, torch.ones_like(raw), raw - physical)
    # Beyond the zero the error grows with |phi| + |rho|; before it, it falls, so the minimum is at the zero or after it.
    after = (1.0 - (physical.abs() + raw.abs()) / (2.0 * weight)).clamp(0.0, 1.0)
    return torch.where(physical * raw >= 0.0, same, torch.maximum(zero, after))
