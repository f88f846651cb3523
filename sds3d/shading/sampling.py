"""Directions drawn in proportion to what matters: the cosine, or the facets that are seen."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sds3d.shading import brdf


def hammersley(count: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Tensor:
    """Return `count` points [count, 2] in [0, 1)^2 that fill the square evenly. Source: Hammersley 1960 (base 2)."""
    index = torch.arange(count, device=device, dtype=torch.int64)
    inverse = torch.zeros(count, device=device, dtype=torch.float64)
    for bit in range(max(count - 1, 1).bit_length()):
        inverse = inverse + ((index >> bit) & 1).to(torch.float64) * 2.0 ** -(bit + 1)
    return torch.stack([(index.to(torch.float64) + 0.5) / count, inverse], dim=-1).to(dtype)


def frame(normal: Tensor) -> tuple[Tensor, Tensor]:
    """Return two unit tangents [..., 3] that make a right-handed frame (tangent, bitangent, normal) with `normal` [..., 3].

    Source: Duff et al., Building an Orthonormal Basis, Revisited, JCGT 6(1), 2017.
    """
    x, y, z = normal.unbind(-1)
    sign = torch.where(z >= 0.0, torch.ones_like(z), -torch.ones_like(z))
    a = -1.0 / (sign + z)
    b = x * y * a
    tangent = torch.stack([1.0 + sign * x * x * a, sign * b, -sign * x], dim=-1)
    return tangent, torch.stack([b, sign + y * y * a, -y], dim=-1)


def to_world(local: Tensor, normal: Tensor) -> Tensor:
    """Return vectors [..., 3], given about +Z, about `normal` [..., 3]."""
    tangent, bitangent = frame(normal)
    return local[..., :1] * tangent + local[..., 1:2] * bitangent + local[..., 2:] * normal


def cosine_directions(random: Tensor) -> Tensor:
    """Return unit directions [..., 3] about +Z with density cos / pi, of uniform numbers [..., 2] in [0, 1)."""
    radius, angle = random[..., 0].sqrt(), 2.0 * math.pi * random[..., 1]
    height = (1.0 - random[..., 0]).clamp_min(0.0).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)


def visible_half_vectors(view: Tensor, alpha: Tensor, random: Tensor) -> Tensor:
    """Return unit half vectors [..., 3] about +Z as they are seen from `view` (GGX, distribution of visible normals).

    Args:
        view: [..., 3] unit, z >= 0. alpha: [..., 1] GGX width. random: [..., 2] in [0, 1). Shapes broadcast.

    Source: Dupuy and Benyoub, Sampling Visible GGX Normals with Spherical Caps, 2023 (after Heitz 2018).
    """
    stretched = torch.nn.functional.normalize(torch.cat([alpha * view[..., :2], view[..., 2:]], dim=-1), dim=-1)
    angle = 2.0 * math.pi * random[..., :1]
    z = (1.0 - random[..., 1:]) * (1.0 + stretched[..., 2:]) - stretched[..., 2:]
    radius = (1.0 - z.square()).clamp_min(0.0).sqrt()
    cap = torch.cat([radius * angle.cos(), radius * angle.sin(), z], dim=-1) + stretched
    return torch.nn.functional.normalize(torch.cat([alpha * cap[..., :2], cap[..., 2:].clamp_min(0.0)], dim=-1), dim=-1)


def reflect(view: Tensor, about: Tensor) -> Tensor:
    """Return the mirror directions [..., 3] of `view` about unit vectors `about`, both away from the surface."""
    return 2.0 * brdf.dot(view, about) * about - view


def visible_density(n_dot_v: Tensor, n_dot_h: Tensor, alpha: Tensor) -> Tensor:
    """Return the density, 1/sr, of light directions that mirror the view about `visible_half_vectors`, [..., 1].

    It is D G1(V) max(V.H, 0) / N.V, the density of H, over 4 V.H.
    """
    ggx = brdf.distribution(n_dot_h, alpha)
    return ggx * brdf.masking(n_dot_v, alpha) / (4.0 * n_dot_v.clamp_min(brdf.EPSILON))
