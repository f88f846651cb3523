"""Shake-ups that let reflecting Gaussians hand their normals to their neighbours (3DGS-DR), and move what is not seen.

Source: Ye, Hou, Zhou, 3D Gaussian Splatting with Deferred Reflection, 2024, sections on normal propagation and colour
sabotage; the progress of the distillation stands for its reflection strength.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from renderers.gaussians.density_operations import relocate
from renderers.gaussians.materials import MaterialGaussians
from renderers.gaussians.optimiser_rows import replace_rows
from sds3d.config.materials import PropagationConfig


@torch.no_grad()
def propagate_normals(cloud: MaterialGaussians, optimiser: Any, config: PropagationConfig) -> None:
    """Raise all opacities to at least `config.opacity`, and lengthen the two longer axes of all that reflects.

    The optimiser forgets what it knew of opacities and sizes.
    """
    reflects = cloud.progress[:, 0].sigmoid() >= config.reflects
    longer = torch.ones_like(cloud.log_scales, dtype=torch.bool)
    longer.scatter_(1, cloud.log_scales.argmin(dim=1, keepdim=True), False)
    grown = cloud.log_scales + torch.where(
        longer & reflects[:, None], torch.tensor(config.grow).log().to(cloud.log_scales), 0.0
    )
    least = torch.logit(torch.tensor(config.opacity)).to(cloud.opacity_logits)
    values = {"log_scales": grown, "opacity_logits": torch.maximum(cloud.opacity_logits, least)}
    _replace(cloud, optimiser, values)


@torch.no_grad()
def disturb_colours(
    cloud: MaterialGaussians, optimiser: Any, config: PropagationConfig, generator: torch.Generator
) -> None:
    """Add uniform noise in +-`config.noise` to `sh0` of all that does not reflect, so that reflection may explain it instead.

    The optimiser forgets what it knew of `sh0`.
    """
    is_dull = cloud.progress.sigmoid() <= config.dull
    noise = (2.0 * torch.rand(cloud.sh0.shape, generator=generator) - 1.0).to(cloud.sh0) * config.noise
    _replace(cloud, optimiser, {"sh0": cloud.sh0 + torch.where(is_dull, noise, torch.zeros_like(noise))})


@torch.no_grad()
def relocate_faint(cloud: MaterialGaussians, optimiser: Any, min_opacity: float, generator: torch.Generator) -> int:
    """Move Gaussians fainter than `min_opacity` onto others (`density_operations.relocate`) and return how many.

    Before materials are trained they are all alike, so only what the raw stage trains moves; the directional colours of
    those moved begin at 0 again.
    """
    dead = cloud.opacities <= min_opacity
    moved = relocate(cloud, optimiser, dead, min_opacity, generator)  # type: ignore[arg-type]  # asks for these names only
    if moved:
        cloud.sh_rest[dead] = 0.0
    return moved


def _replace(cloud: MaterialGaussians, optimiser: Any, values: dict[str, Tensor]) -> None:
    rows = torch.arange(cloud.count, device=cloud.means.device)
    replace_rows(cloud, values, optimiser, rows, torch.ones_like(rows, dtype=torch.bool), values)


def progress_of(cloud: MaterialGaussians) -> dict[str, float]:
    """Return mean and deciles of the progress of all Gaussians, and the largest baked colour: what a log should hold."""
    progress = cloud.progress.detach()[:, 0].sigmoid()
    low, middle, high = torch.quantile(progress, torch.tensor([0.1, 0.5, 0.9]).to(progress)).tolist()
    largest = float((cloud.sh0.detach() * 0.28209479 + 0.5).max())
    return {"mean": float(progress.mean()), "p10": low, "p50": middle, "p90": high, "largest_raw": largest}
