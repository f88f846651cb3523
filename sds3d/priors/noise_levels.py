"""Noise levels of discrete-time priors: tables of alpha_t and sigma_t."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.conventions import NUM_TRAIN_TIMESTEPS
from sds3d.errors import ConfigError

BETA_SCHEDULES = ("scaled_linear", "linear", "squaredcos_cap_v2")


@dataclass(frozen=True)
class NoiseLevels:
    """Tables alpha[t] and sigma[t] ([T] float32) with z_t = alpha_t z0 + sigma_t epsilon; noise grows with t."""

    alpha: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return self.alpha.shape[0]

    def to(self, device: torch.device | str) -> NoiseLevels:
        """Return the same tables on `device`."""
        return NoiseLevels(self.alpha.to(device), self.sigma.to(device))

    def at(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (alpha, sigma), [B, 1, 1, 1] each, at timesteps `t` [B] int64 in [0, T - 1]."""
        return self.alpha[t][:, None, None, None], self.sigma[t][:, None, None, None]


def variance_preserving(
    schedule: str = "scaled_linear",
    beta_start: float = 0.00085,
    beta_end: float = 0.012,
    length: int = NUM_TRAIN_TIMESTEPS,
    zero_terminal_snr: bool = False,
) -> NoiseLevels:
    """Return alpha = sqrt(abar), sigma = sqrt(1 - abar), abar the cumulative product of 1 - beta.

    The defaults are those of Stable Diffusion 1.x and 2.x. Computed in float64, so that the tables do not depend on
    rounding in a long product. Raises: ConfigError for a schedule that is not in `BETA_SCHEDULES`.

    Source: diffusers DDPMScheduler configuration keys; zero terminal SNR: arXiv 2305.08891, algorithm 1.
    """
    if schedule == "scaled_linear":
        betas = torch.linspace(beta_start**0.5, beta_end**0.5, length, dtype=torch.float64) ** 2
    elif schedule == "linear":
        betas = torch.linspace(beta_start, beta_end, length, dtype=torch.float64)
    elif schedule == "squaredcos_cap_v2":
        time = torch.arange(length + 1, dtype=torch.float64) / length
        bar = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
        betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
    else:
        raise ConfigError(
            f"The prior's noise schedule is '{schedule}'; known are {', '.join(BETA_SCHEDULES)}. Use another prior."
        )
    return from_betas(betas, zero_terminal_snr)


def from_betas(betas: Tensor, zero_terminal_snr: bool = False) -> NoiseLevels:
    """Return the variance-preserving tables of the per-step variances `betas` [T]."""
    alpha = torch.cumprod(1.0 - betas.double(), dim=0).sqrt()
    if zero_terminal_snr:
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    return NoiseLevels(alpha=alpha.float(), sigma=(1.0 - alpha**2).sqrt().float())


def flow_levels(length: int = NUM_TRAIN_TIMESTEPS, shift: float = 1.0) -> NoiseLevels:
    """Return alpha = 1 - sigma with sigma[t] = shift u / (1 + (shift - 1) u), u = (t + 1) / T, so sigma[T - 1] = 1.

    `shift` 3 is SD3's. Source: arXiv 2403.03206, section 5.3.2. Deviation: our table rises with t, like all priors
    here; diffusers' flow scheduler lists the same values falling.
    """
    u = torch.arange(1, length + 1, dtype=torch.float64) / length
    sigma = shift * u / (1 + (shift - 1) * u)
    return NoiseLevels(alpha=(1.0 - sigma).float(), sigma=sigma.float())
