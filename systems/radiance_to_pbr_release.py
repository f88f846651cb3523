"""What happens to materials once, when stage diffuse begins: metalness is released, base colours may come from baked ones."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.gaussians import sh
from renderers.gaussians.materials import MaterialGaussians
from renderers.material_surface import MaterialSurface
from sds3d.config.materials import MaterialsConfig
from sds3d.shading.colour import linear_from_srgb

DARKEST, BRIGHTEST = 0.02, 0.95
"""Base colours that are taken from baked ones."""
FIT_STEPS, FIT_RATE, FIT_POINTS = 80, 0.01, 2048


def release(cloud: MaterialGaussians | MaterialSurface, config: MaterialsConfig) -> None:
    """Let metalness begin where the recipe says, and take base colours from baked ones if it says so."""
    is_copied, start = config.metallic_from_progress, config.metallic_start
    with torch.no_grad():
        if isinstance(cloud, MaterialSurface):
            cloud.fill_("metallic", "progress" if is_copied else start)
        else:
            cloud.fill_("metallic", cloud.progress.sigmoid().clamp(0.05, 0.95) if is_copied else start)
    if config.base_colour_from_baked:
        adopt_baked(cloud)


def adopt_baked(cloud: MaterialGaussians | MaterialSurface) -> None:
    """Blend base colours with baked ones: the less physics explains so far (1 - progress), the more.

    What stage specular could not explain, small matt parts above all, has no material of its own yet; its baked colour, as if
    the light were white and 1, is a nearer start than grey. Source: ours. Limits: shadows come along.
    """
    if isinstance(cloud, MaterialGaussians):
        with torch.no_grad():
            progress, baked = cloud.progress.sigmoid(), _linear(sh.rgb_from_sh0(cloud.sh0))
            cloud.fill_("base_colour", progress * cloud.base_colour.sigmoid() + (1.0 - progress) * baked)
        return
    points, normals = cloud.scatter(FIT_POINTS, torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = cloud.material_at(points)
        share = wanted["progress"]
        baked = _linear(cloud.raw_at(points, normals))
        wanted["base_colour"] = share * wanted["base_colour"] + (1.0 - share) * baked
    _fit(cloud, points, torch.cat(list(wanted.values()), dim=1))


def _fit(surface: MaterialSurface, points: Tensor, wanted: Tensor) -> None:
    """Fit the material's field to values [P, 6] at points [P, 3], with an optimiser of its own."""
    parameters = [*surface.encoding.parameters(), *surface.network.parameters()]
    flags = [parameter.requires_grad for parameter in parameters]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimiser = torch.optim.Adam(parameters, lr=FIT_RATE, betas=(0.9, 0.99), eps=1e-15)
    with torch.enable_grad():
        for _ in range(FIT_STEPS):
            found = torch.cat(list(surface.material_at(points).values()), dim=1)
            optimiser.zero_grad(set_to_none=True)
            (found - wanted).square().mean().backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    optimiser.zero_grad(set_to_none=True)
    for parameter, flag in zip(parameters, flags, strict=True):
        parameter.requires_grad_(flag)


def _linear(srgb: Tensor) -> Tensor:
    return linear_from_srgb(srgb.clamp(0.0, 1.0)).clamp(DARKEST, BRIGHTEST)
