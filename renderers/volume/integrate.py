"""From samples to pixels: optical depths become weights, weights sum values along each ray. Packed, any device.

Source: Max 1995, "Optical models for direct volume rendering"; notation of Mildenhall et al. 2020 (NeRF), eq. 3:
T_i = exp(-sum_{j<i} d_j), w_i = T_i (1 - exp(-d_i)), with d the density times the width of an interval.
"""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.volume import nerfacc_backend


def exclusive_sum(values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Return [N] the sum of the earlier `values` [N] on the same ray; `ray` [N] int64 ascending in [0, rays).

    Sums in double precision: the offset of a ray in the running sum over all rays would cost single precision digits.
    """
    wide = values.double()
    before = wide.cumsum(dim=0) - wide
    ones = torch.ones_like(ray)
    count = torch.zeros(rays, dtype=ray.dtype, device=ray.device).index_add(0, ray, ones)
    # Empty rays at the end would name a sample past the last one; nobody asks for their offset.
    first = (count.cumsum(dim=0) - count).clamp(max=max(len(values) - 1, 0))
    start = before.index_select(0, first.index_select(0, ray))
    return (before - start).to(values.dtype)


def weights_of(depths: Tensor, ray: Tensor, rays: int, backend: str = "torch") -> tuple[Tensor, Tensor]:
    """Return (weights [N], transmittance in front of each sample [N]) of optical `depths` [N] >= 0.

    backend: "torch", "nerfacc", or "auto" for nerfacc on CUDA tensors where it is available.
    Raises: BackendError if nerfacc is asked for and cannot run.
    """
    if nerfacc_backend.chosen(backend, depths):
        before = nerfacc_backend.exclusive_sum(depths, ray, rays)
    else:
        before = exclusive_sum(depths, ray, rays)
    light = torch.exp(-before)
    return light * -torch.expm1(-depths), light


def accumulate(weights: Tensor, values: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Return [rays, C] sums of weights [N] times values [N, C] over each ray."""
    total = torch.zeros(rays, values.shape[1], dtype=values.dtype, device=values.device)
    return total.index_add(0, ray, weights[:, None] * values)


def distortion(weights: Tensor, place: Tensor, width: Tensor, ray: Tensor, rays: int) -> Tensor:
    """Return [rays] sum_ij w_i w_j |s_i - s_j| + 1/3 sum_i w_i^2 width_i, in linear time.

    weights, place, width: [N]; `place` ascends on a ray. Source: Barron et al. 2022 (Mip-NeRF 360), eq. 15; the double
    sum by running sums, as Sun et al. 2022 (DVGO v2).
    """
    mass = exclusive_sum(weights, ray, rays)
    moment = exclusive_sum(weights * place, ray, rays)
    each = 2.0 * weights * (place * mass - moment) + weights.square() * width / 3.0
    return torch.zeros(rays, dtype=each.dtype, device=each.device).index_add(0, ray, each)
