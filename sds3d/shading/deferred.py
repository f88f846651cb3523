"""Deferred shading: pictures of attributes and a light become a picture, one reflection lobe a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError, nearest
from sds3d.shading import brdf, energy, sampling
from sds3d.shading.brdf import Material, Shaded
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import GBuffer

DIRECTIONS = ("dominant", "mirror")
"""Where the blurred light is read: between the mirror direction and the normal, as the lobe leans; or at the mirror."""
FACING = 0.01
"""Cosine between normal and view that bent normals have at least."""


class Light(Protocol):
    """What shading asks of a light (`Prefiltered`, `ShLight`)."""

    def radiance(self, direction: Tensor) -> Tensor:
        """Return the light [..., 3] from directions [..., 3]."""

    def diffuse(self, normal: Tensor) -> Tensor:
        """Return irradiance / pi, [..., 3], at normals [..., 3]."""

    def specular(self, direction: Tensor, roughness: Tensor) -> Tensor:
        """Return the blurred light [..., 3] about directions [..., 3] for roughness [..., 1]."""


@dataclass(frozen=True, kw_only=True)
class ShadeSettings:
    """How pixels are shaded.

    Args:
        mode: one of `brdf.MODES`: "simple" as in most papers, "layered" as viewers of glTF files do.
        direction: one of `DIRECTIONS`; "mirror" as in most papers, "dominant" is nearer to the truth.
        energy_compensation: give rough metals the light back that facets send to each other.
        bend_normals: turn normals that face away towards the viewer, so that these pixels keep a gradient.

    Raises: ConfigError for unknown words.
    """

    mode: str = "simple"
    direction: str = "dominant"
    energy_compensation: bool = False
    bend_normals: bool = True

    def __post_init__(self) -> None:
        for name, allowed in (("mode", brdf.MODES), ("direction", DIRECTIONS)):
            given = getattr(self, name)
            if given not in allowed:
                raise ConfigError(f"{name} is '{given}', which is unknown. Use {nearest(given, allowed)}.", name)


DEFAULT = ShadeSettings()


def shade_points(
    material: Material,
    normal: Tensor,
    view: Tensor,
    light: Light | EnvironmentLight,
    settings: ShadeSettings = DEFAULT,
    diffuse_light: Tensor | None = None,
) -> Shaded:
    """Return the light that points send to the camera, [..., 3] linear, by the split sum.

    Args:
        material: [...]. normal, view: [..., 3] unit, away from the surface.
        light: prefiltered, or an `EnvironmentLight`, which is then filtered here.
        diffuse_light: [..., 3] irradiance / pi instead of the light's own, e.g. with baked visibility.

    Source: Karis 2013; dominant direction of Lagarde and de Rousiers, Moving Frostbite to PBR, 2014; compensation of
        Fdez-Aguera, A Multiple-Scattering Microfacet Model for Real-Time Image-based Lighting, 2019 (specular part).
    Deviations: normals are bent by adding view, nvdiffrec goes over to a geometric normal; in mode "coupled" the diffuse
        part is weakened by the mean Fresnel term under even light.
    Limits: those of the split sum: no shadows; lobes are neither stretched at grazing angles nor cut by the horizon. Exact
        for even light; docs/materials.md has the errors under lamps.
    """
    lit = light.prefiltered() if isinstance(light, EnvironmentLight) else light
    if settings.bend_normals:
        lack = (FACING - brdf.dot(normal, view)).clamp_min(0.0)
        normal = torch.nn.functional.normalize(normal + lack * view, dim=-1)
    n_dot_v = brdf.dot(normal, view).clamp(brdf.EPSILON, 1.0)
    towards = sampling.reflect(view, normal)
    if settings.direction == "dominant":
        alpha = material.roughness.square()
        lean = (1.0 - alpha).clamp_min(0.0).pow(1.5) + (1.0 - alpha) * alpha
        towards = torch.nn.functional.normalize(normal + (towards - normal) * lean, dim=-1)
    scale, offset = energy.split_sum(n_dot_v, material.roughness)
    reflected = material.f0 * scale + offset
    if settings.energy_compensation:
        reflected = reflected * (1.0 + material.f0 * (1.0 / (scale + offset).clamp_min(brdf.EPSILON) - 1.0))
    specular = lit.specular(towards, material.roughness) * reflected
    diffuse = material.diffuse_colour * (lit.diffuse(normal) if diffuse_light is None else diffuse_light)
    if settings.mode == "coupled":
        diffuse = diffuse * energy.transmitted(n_dot_v)
    elif settings.mode == "layered":
        diffuse = diffuse * energy.transmitted_below(n_dot_v, material.roughness)
    return Shaded(diffuse, specular)


def shade(
    gbuffer: GBuffer,
    light: Light | EnvironmentLight,
    settings: ShadeSettings = DEFAULT,
    diffuse_light: Tensor | None = None,
) -> Shaded:
    """Return the light [B, H, W, 3], linear and not composited, that the surfaces of a G-buffer send to the camera."""
    return shade_points(gbuffer.material, gbuffer.normal, gbuffer.view, light, settings, diffuse_light)


def composite(rgb: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
    """Return alpha rgb + (1 - alpha) background, [B, H, W, C]. background: [B, C] or [B, H, W, C].

    Raises: ShapeError for another background.
    """
    if background.dim() not in (2, 4) or background.shape[-1] != rgb.shape[-1] or len(background) not in (1, len(rgb)):
        raise ShapeError("background", f"[{len(rgb)}, {rgb.shape[-1]}]", tuple(background.shape))
    behind = background[:, None, None] if background.dim() == 2 else background
    return alpha * rgb + (1.0 - alpha) * behind
