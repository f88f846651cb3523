"""The rendering equation at a point, by sampling: slow, unbiased, and what every shortcut is compared with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sds3d.shading import brdf, sampling
from sds3d.shading.brdf import Material, Shaded


def integrate(
    material: Material,
    normal: Tensor,
    view: Tensor,
    radiance: Callable[[Tensor], Tensor],
    samples: int = 256,
    mode: str = "simple",
    generator: torch.Generator | None = None,
) -> Shaded:
    """Return the light that points send to the camera under distant light.

    Args:
        material: [...]. normal, view: [..., 3] unit.
        radiance: from unit directions [..., S, 3] to linear light [..., S, 3]; a visibility can be multiplied in here.
        samples: directions a point; half by the cosine, half by the visible facets.
        mode: one of `brdf.MODES`.
        generator: CPU generator that shifts the sample pattern of each point; None: all points share one pattern.

    Source: Veach and Guibas 1995, balance heuristic: every sample, of whichever kind, is divided by the mean of both
        densities. Deviations from NeRO and DreamMat: these divide a sample by its own kind's density only and so count
        the light twice (docs/materials.md).
    Limits: no light between surfaces unless `radiance` brings it; below roughness 0.04 as 0.04.
    """
    random = _patterns(samples, normal, generator)
    half_count = samples // 2
    centre, towards = normal[..., None, :], view[..., None, :]
    broad = Material(*(value[..., None, :] for value in (material.base_colour, material.roughness, material.metallic)))
    first = sampling.to_world(sampling.cosine_directions(random[..., half_count:, :]), centre)
    tangent, bitangent = sampling.frame(centre)
    local = torch.cat([brdf.dot(towards, tangent), brdf.dot(towards, bitangent), brdf.dot(towards, centre)], dim=-1)
    half = sampling.visible_half_vectors(local, broad.alpha, random[..., :half_count, :])
    second = sampling.to_world(sampling.reflect(local, half), centre)
    light = torch.cat([first, second], dim=-2)
    n_dot_l, n_dot_v = brdf.dot(light, centre), brdf.dot(towards, centre)
    n_dot_h = brdf.dot(torch.nn.functional.normalize(light + towards, dim=-1), centre)
    share = half_count / samples
    facets = sampling.visible_density(n_dot_v, n_dot_h, broad.alpha)
    density = (1.0 - share) * n_dot_l.clamp_min(0.0) / torch.pi + share * facets
    arriving = radiance(light) * n_dot_l.clamp_min(0.0) / density.clamp_min(1e-12)
    diffuse, specular = brdf.evaluate_parts(broad, centre, towards, light, mode)
    return Shaded((diffuse * arriving).mean(dim=-2), (specular * arriving).mean(dim=-2))


def _patterns(samples: int, normal: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return numbers [..., samples, 2] in [0, 1): two even patterns of half the count, shifted for each point."""
    half = samples // 2
    parts = [sampling.hammersley(count, normal.device, normal.dtype) for count in (half, samples - half)]
    pattern = torch.cat(parts)
    if generator is None:
        return pattern.expand(*normal.shape[:-1], samples, 2)
    shift = torch.rand(*normal.shape[:-1], 1, 2, generator=generator, dtype=normal.dtype).to(normal.device)
    return (pattern + shift).remainder(1.0)
