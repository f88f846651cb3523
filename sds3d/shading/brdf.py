"""glTF 2.0's metallic-roughness material: how much light a surface sends from one direction to another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ConfigError, nearest

MODES = ("simple", "coupled", "layered")
"""How diffuse and specular parts add up. "simple": they are added as they are, as nvdiffrec, GS-IR and most papers do.
"coupled": glTF 2.0, appendix B: the diffuse part is weakened by the Fresnel term of the same half vector. "layered": by all
the light that the coat reflects at this angle of view, as viewers do under an environment map. Only "layered" never sends
back more than arrives: the others do at grazing angles (docs/materials.md)."""

DIELECTRIC_F0 = 0.04
"""Reflectance of a dielectric seen from straight above (index of refraction 1.5). Source: glTF 2.0, appendix B."""

EPSILON = 1e-4
"""Cosines are kept above this where they divide."""
ROUGHNESS_MIN = 0.04
"""Smallest roughness of a lobe that is evaluated at a point: sharper ones are beyond float32 and any sampling."""


@dataclass(frozen=True)
class Material:
    """A material at any number of points.

    Args:
        base_colour: [..., 3] linear Rec.709 in [0, 1]. roughness: [..., 1] perceptual, in [0, 1] (alpha = roughness^2).
        metallic: [..., 1] in [0, 1].
    """

    base_colour: Tensor
    roughness: Tensor
    metallic: Tensor

    @property
    def f0(self) -> Tensor:
        """[..., 3] reflectance at normal incidence."""
        return DIELECTRIC_F0 * (1.0 - self.metallic) + self.metallic * self.base_colour

    @property
    def diffuse_colour(self) -> Tensor:
        """[..., 3] share of the light that is scattered below the surface: metals have none."""
        return (1.0 - self.metallic) * self.base_colour

    @property
    def alpha(self) -> Tensor:
        """[..., 1] GGX width, of the roughness kept above `ROUGHNESS_MIN`."""
        return self.roughness.clamp_min(ROUGHNESS_MIN).square()


@dataclass(frozen=True)
class Shaded:
    """Light towards the camera, [..., 3] linear Rec.709: the parts and their sum `rgb`."""

    diffuse: Tensor
    specular: Tensor

    @property
    def rgb(self) -> Tensor:
        """[..., 3] linear, not clipped."""
        return self.diffuse + self.specular


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the scalar products [..., 1] of vectors [..., 3]."""
    return (a * b).sum(dim=-1, keepdim=True)


def distribution(n_dot_h: Tensor, alpha: Tensor) -> Tensor:
    """Return the GGX density D of half vectors, 1/sr. n_dot_h, alpha: any shapes that broadcast."""
    denominator = n_dot_h.square() * (alpha.square() - 1.0) + 1.0
    return alpha.square() / (math.pi * denominator.square())


def visibility(n_dot_l: Tensor, n_dot_v: Tensor, alpha: Tensor) -> Tensor:
    """Return the height-correlated Smith term G / (4 N.L N.V). Cosines are taken as at least `EPSILON`."""
    light, view, square = n_dot_l.clamp_min(EPSILON), n_dot_v.clamp_min(EPSILON), alpha.square()
    masked = view * (square + (1.0 - square) * light.square()).sqrt()
    shadowed = light * (square + (1.0 - square) * view.square()).sqrt()
    return 0.5 / (masked + shadowed)


def masking(cosine: Tensor, alpha: Tensor) -> Tensor:
    """Return Smith's G1 in [0, 1], the share of the facets that is seen at the angle of `cosine` to the normal."""
    square = alpha.square()
    return 2.0 * cosine / (cosine + (square + (1.0 - square) * cosine.square()).sqrt()).clamp_min(EPSILON)


def schlick(v_dot_h: Tensor) -> Tensor:
    """Return Schlick's weight (1 - |V.H|)^5: Fresnel is F0 + (1 - F0) weight."""
    return (1.0 - v_dot_h.abs().clamp(0.0, 1.0)).pow(5)


def evaluate(material: Material, normal: Tensor, view: Tensor, light: Tensor, mode: str = "simple") -> Tensor:
    """Return the BRDF f [..., 3] in 1/sr, without the cosine; 0 where view or light is below the surface.

    Args:
        material: [...]. normal, view, light: [..., 3] unit, away from the surface; shapes broadcast.
        mode: one of `MODES`.

    Source: glTF 2.0 specification, appendix B.3 (Walter et al. 2007 for GGX, Heitz 2014 for the correlated masking).
    Deviations: roughness is kept above `ROUGHNESS_MIN`.
    Limits: "layered" is not reciprocal.
        One scattering event between facets: rough metals lose light (`ShadeSettings.energy_compensation`).
    Raises: ConfigError for an unknown mode.
    """
    diffuse, specular = evaluate_parts(material, normal, view, light, mode)
    return diffuse + specular


def evaluate_parts(
    material: Material, normal: Tensor, view: Tensor, light: Tensor, mode: str = "simple"
) -> tuple[Tensor, Tensor]:
    """Return the diffuse and the specular part of `evaluate`, each [..., 3]."""
    if mode not in MODES:
        raise ConfigError(f"The BRDF mode is '{mode}', which is unknown. Use {nearest(mode, MODES)}.", "mode")
    half = torch.nn.functional.normalize(view + light, dim=-1)
    n_dot_l, n_dot_v, n_dot_h = dot(normal, light), dot(normal, view), dot(normal, half)
    weight = schlick(dot(view, half))
    lobe = distribution(n_dot_h, material.alpha) * visibility(n_dot_l, n_dot_v, material.alpha)
    specular = lobe * (material.f0 + (1.0 - material.f0) * weight)
    diffuse = material.diffuse_colour / math.pi
    if mode == "coupled":
        diffuse = diffuse * (1.0 - (DIELECTRIC_F0 + (1.0 - DIELECTRIC_F0) * weight))
    elif mode == "layered":
        from sds3d.shading.energy import transmitted_below  # whose table is made with the functions above

        diffuse = diffuse * transmitted_below(n_dot_v.clamp(0.0, 1.0), material.roughness)
    is_above = (n_dot_l > 0.0) & (n_dot_v > 0.0)
    zero = torch.zeros_like(specular)
    return torch.where(is_above, diffuse, zero), torch.where(is_above, specular, zero)
