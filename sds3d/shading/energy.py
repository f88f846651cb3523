"""How much light a GGX surface reflects in all: the two numbers of the split sum, by our own integration."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from sds3d.shading import brdf, sampling

SIZE, SAMPLES = 64, 1024
"""Texels along an edge and samples a texel. More samples change no entry by more than 0.001 (docs/materials.md)."""


def integrate_energy(n_dot_v: Tensor, roughness: Tensor, samples: int = SAMPLES) -> tuple[Tensor, Tensor]:
    """Return (A, B), each [..., 1]: F0 A + B is the share of light from all around that a GGX surface reflects.

    Args: n_dot_v, roughness: [..., 1] in (0, 1]; samples: number of half vectors a point.
    Source: Karis, Real Shading in Unreal Engine 4, 2013, with visible normals: each sample weighs G2 / G1(V).
    """
    cosine = n_dot_v.clamp(brdf.EPSILON, 1.0)
    alpha = roughness.clamp_min(brdf.ROUGHNESS_MIN).square()[..., None, :]
    view = torch.cat([(1.0 - cosine.square()).sqrt(), torch.zeros_like(cosine), cosine], dim=-1)[..., None, :]
    random = sampling.hammersley(samples, cosine.device, cosine.dtype)
    half = sampling.visible_half_vectors(view, alpha, random)
    light = sampling.reflect(view, half)
    n_dot_l = light[..., 2:]
    weight = 4.0 * brdf.visibility(n_dot_l, view[..., 2:], alpha) * view[..., 2:] * n_dot_l
    weight = torch.where(n_dot_l > 0.0, weight / brdf.masking(view[..., 2:], alpha), torch.zeros_like(weight))
    fresnel = brdf.schlick(brdf.dot(view, half))
    return ((1.0 - fresnel) * weight).mean(dim=-2), (fresnel * weight).mean(dim=-2)


@functools.lru_cache(maxsize=4)
def energy_table(size: int = SIZE, samples: int = SAMPLES) -> Tensor:
    """Return (A, B) as a table [1, 2, size, size] float32 on the CPU: rows roughness, columns N.V, each from 0 to 1.

    Computed at the first call (a fraction of a second); nothing ships and nothing is read.
    """
    knots = torch.linspace(0.0, 1.0, size)
    with torch.no_grad():
        rows = [integrate_energy(knots[:, None], row.expand(size, 1), samples) for row in knots]
    return torch.stack([torch.cat([a[:, 0] for a, _ in rows]), torch.cat([b[:, 0] for _, b in rows])]).view(
        1, 2, size, size
    )


@functools.lru_cache(maxsize=8)
def _table_on(device: torch.device, dtype: torch.dtype) -> Tensor:
    return energy_table().to(device, dtype)


def split_sum(n_dot_v: Tensor, roughness: Tensor) -> tuple[Tensor, Tensor]:
    """Return (A, B), each [..., 1], read from the table with bilinear interpolation; differentiable in both arguments.

    Args: n_dot_v, roughness: [..., 1] in [0, 1], clamped to it.
    """
    table = _table_on(n_dot_v.device, n_dot_v.dtype)
    place = torch.cat([n_dot_v, roughness.expand_as(n_dot_v)], dim=-1).reshape(1, 1, -1, 2) * 2.0 - 1.0
    found = torch.nn.functional.grid_sample(table, place, mode="bilinear", padding_mode="border", align_corners=True)
    pair = found.view(2, *n_dot_v.shape)
    return pair[0], pair[1]


def transmitted_below(n_dot_v: Tensor, roughness: Tensor) -> Tensor:
    """Return the share [..., 1] of light that the coat of a dielectric does not reflect (brdf mode "layered").

    Args: n_dot_v, roughness: [..., 1] in [0, 1].
    """
    scale, offset = split_sum(n_dot_v, roughness)
    return 1.0 - (brdf.DIELECTRIC_F0 * scale + offset)


def transmitted(n_dot_v: Tensor) -> Tensor:
    """Return the mean [..., 1] of 1 - Fresnel of a dielectric over cosine-weighted light (brdf mode "coupled").

    n_dot_v: [..., 1] in [0, 1]; read from a table, differentiable.
    """
    table = _transmission().to(n_dot_v.device, n_dot_v.dtype)
    place = torch.stack([n_dot_v * 2.0 - 1.0, torch.zeros_like(n_dot_v)], dim=-1).reshape(1, 1, -1, 2)
    found = torch.nn.functional.grid_sample(table, place, align_corners=True, padding_mode="border")
    return found.view(n_dot_v.shape)


@functools.lru_cache(maxsize=1)
def _transmission(size: int = 64, samples: int = 1024) -> Tensor:
    """Return the table [1, 1, 1, size] of `transmitted`, N.V from 0 to 1."""
    cosine = torch.linspace(0.0, 1.0, size)[:, None, None]
    view = torch.cat([(1.0 - cosine.square()).sqrt(), torch.zeros_like(cosine), cosine], dim=-1)
    arriving = sampling.cosine_directions(sampling.hammersley(samples))
    half = torch.nn.functional.normalize(view + arriving, dim=-1)
    weight = brdf.schlick(brdf.dot(view, half)).mean(dim=1)
    return ((1.0 - brdf.DIELECTRIC_F0) * (1.0 - weight)).view(1, 1, 1, size)
