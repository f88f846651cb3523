"""Noise levels of video models, and the time each network is told at them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sds3d.conventions import NUM_TRAIN_TIMESTEPS
from sds3d.priors.noise_levels import NoiseLevels, flow_levels
from sds3d.priors.unet_prior import read_levels

KARRAS_RHO = 7.0
"""Exponent of EDM's spacing (arXiv 2206.00364, equation 5)."""


def video_levels(kind: str, scheduler: Mapping[str, Any], tokens: int) -> tuple[NoiseLevels, Tensor]:
    """Return noise levels and, for each of our timesteps, the number the network gets as its time [T].

    Args:
        kind: "betas", "flow" or "edm", see `Family.noise`.
        scheduler: diffusers' scheduler configuration.
        tokens: number of tokens of a clip, on which some flow models' shift depends.
    """
    length = int(scheduler.get("num_train_timesteps", NUM_TRAIN_TIMESTEPS))
    if kind == "flow":
        levels = flow_levels(length, flow_shift(scheduler, tokens))
        return levels, levels.sigma * NUM_TRAIN_TIMESTEPS
    if kind == "edm":
        return edm_levels(
            float(scheduler.get("sigma_min") or 0.002), float(scheduler.get("sigma_max") or 700.0), length
        )
    levels = shifted_snr(read_levels(dict(scheduler) | {"rescale_betas_zero_snr": False}), scheduler)
    return levels, torch.arange(length)


def edm_levels(sigma_min: float, sigma_max: float, length: int = NUM_TRAIN_TIMESTEPS) -> tuple[NoiseLevels, Tensor]:
    """Return the levels of z0 + s epsilon with s from `sigma_min` to `sigma_max`, and the network times ln(s) / 4.

    The point is scaled to alpha z0 + sigma epsilon with alpha = 1 / sqrt(1 + s^2), which is what an EDM network gets as
    input; its output is then exactly a v-prediction: D = alpha z_t - sigma F.
    Source: EDM (arXiv 2206.00364), table 1 with unit data spread and equation 5; SVD's scheduler configuration.
    """
    u = torch.linspace(0, 1, length, dtype=torch.float64)
    low, high = sigma_min ** (1 / KARRAS_RHO), sigma_max ** (1 / KARRAS_RHO)
    s = (low + u * (high - low)) ** KARRAS_RHO
    alpha = (1 + s**2).rsqrt()
    return NoiseLevels(alpha=alpha.float(), sigma=(s * alpha).float()), (0.25 * s.log()).float()


def shifted_snr(levels: NoiseLevels, scheduler: Mapping[str, Any]) -> NoiseLevels:
    """Return the levels with CogVideoX's changes: signal-to-noise ratio divided by `snr_shift_scale`, then brought to 0.

    Source: CogVideoX (arXiv 2408.06072), section 3; diffusers' CogVideoXDDIMScheduler; zero end: arXiv 2305.08891.
    """
    shift = scheduler.get("snr_shift_scale")
    if shift is None and "CogVideoX" in str(scheduler.get("_class_name")):
        shift = 3.0  # diffusers' default
    alpha = levels.alpha.double()
    if shift is not None:
        alpha = (alpha**2 / (shift + (1 - shift) * alpha**2)).sqrt()
    if scheduler.get("rescale_betas_zero_snr", False):
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return NoiseLevels(alpha=alpha.float(), sigma=(1 - alpha**2).sqrt().float())


def flow_shift(scheduler: Mapping[str, Any], tokens: int) -> float:
    """Return S in sigma = S u / (1 + (S - 1) u): a number of the configuration, or one that grows with the clip.

    Source: diffusers, UniPCMultistepScheduler ("flow_shift"), FlowMatchEulerDiscreteScheduler ("shift", dynamic
    shifting) and `calculate_shift` of its pipelines. Deviation: LTX's stretching of its own sampling grid
    ("shift_terminal") is left out; it chooses sampling steps and is no property of the network.
    """
    if scheduler.get("flow_shift") is not None:
        return float(scheduler["flow_shift"])
    if not scheduler.get("use_dynamic_shifting", False):
        return float(scheduler.get("shift", 1.0))
    first, last = float(scheduler.get("base_image_seq_len", 256)), float(scheduler.get("max_image_seq_len", 4096))
    low, high = float(scheduler.get("base_shift", 0.5)), float(scheduler.get("max_shift", 1.15))
    mu = low + (tokens - first) * (high - low) / (last - first)
    return math.exp(mu) if scheduler.get("time_shift_type", "exponential") == "exponential" else mu
