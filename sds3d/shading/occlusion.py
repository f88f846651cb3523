"""How much of the light a surface's own shape hides: what ambient occlusion takes from each part of the shading."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.shading import brdf
from sds3d.shading.brdf import Shaded


def specular_occlusion(n_dot_v: Tensor, openness: Tensor, roughness: Tensor) -> Tensor:
    """Return the share [..., 1] of reflected light that is seen, from the share of the sky that is (`openness`).

    n_dot_v, openness, roughness: [..., 1] in [0, 1].
    Source: Lagarde and de Rousiers, Moving Frostbite to PBR, 2014, listing 26; three.js does the same with occlusion maps.
    """
    openness = openness.clamp(0.0, 1.0)
    power = torch.exp2(-16.0 * roughness.clamp(0.0, 1.0) - 1.0)
    return ((n_dot_v + openness).clamp_min(brdf.EPSILON).pow(power) - 1.0 + openness).clamp(0.0, 1.0)


def occluded(shaded: Shaded, openness: Tensor, normal: Tensor, view: Tensor, roughness: Tensor) -> Shaded:
    """Return shaded light [..., 3] as it is where the surface sees only the share `openness` [..., 1] of its sky.

    Limits: the same for light from everywhere; what is hidden is black, though other surfaces would send light back.
    """
    n_dot_v = brdf.dot(normal, view).clamp(0.0, 1.0)
    return Shaded(
        shaded.diffuse * openness.clamp(0.0, 1.0), shaded.specular * specular_occlusion(n_dot_v, openness, roughness)
    )
