"""Light as spherical harmonics: irradiance in closed form, also where part of the light is hidden."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sds3d.errors import ShapeError
from sds3d.shading import cubemap, directions

COSINE = (math.pi, 2.0 * math.pi / 3.0, math.pi / 4.0, 0.0, -math.pi / 24.0)
"""The clamped cosine in the zonal harmonics of bands 0, 1, ... Source: Ramamoorthi and Hanrahan 2001, eq. 8; all odd bands
from 3 on are 0."""
IRRADIANCE_DEGREE = 2
"""Bands used for irradiance; those beyond hold less than 1 % of the clamped cosine."""
ROUGHNESS_STEPS = 33


def basis(direction: Tensor, degree: int) -> Tensor:
    """Return the real spherical harmonics [..., (degree + 1)^2] at unit directions [..., 3], m = -l .. l in each band l.

    Signs as in splat files (Condon-Shortley phase). Source: Sloan, JCGT 2(2), 2013; the recurrence of associated Legendre
    polynomials, in which x, y and z appear as polynomials, so that the poles are nothing special. Any degree.
    """
    x, y, z = direction.unbind(-1)
    cosine, sine = [torch.ones_like(x)], [torch.zeros_like(x)]  # (x + i y)^m
    for _ in range(degree):
        cosine.append(x * cosine[-1] - y * sine[-1])
        sine.append(x * sine[-1] + y * cosine[-2])
    values: dict[tuple[int, int], Tensor] = {}
    for m in range(degree + 1):
        legendre = [torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))]
        if m < degree:
            legendre.append((2 * m + 1) * z * legendre[0])
        for band in range(m + 2, degree + 1):
            legendre.append(((2 * band - 1) * z * legendre[-1] - (band + m - 1) * legendre[-2]) / (band - m))
        for band in range(m, degree + 1):
            ratio = math.factorial(band - m) / math.factorial(band + m)
            scale = math.sqrt((2 * band + 1) / (4.0 * math.pi) * ratio) * (-1) ** m
            scale *= math.sqrt(2.0) if m else 1.0
            values[band, m] = scale * legendre[band - m] * cosine[m]
            values[band, -m] = scale * legendre[band - m] * (sine[m] if m else cosine[0])
    return torch.stack([values[band, m] for band in range(degree + 1) for m in range(-band, band + 1)], dim=-1)


def degree_of(coefficients: int) -> int:
    """Return the degree of a number of coefficients. Raises: ShapeError unless it is a square."""
    degree = math.isqrt(coefficients) - 1
    if degree < 0 or (degree + 1) ** 2 != coefficients:
        raise ShapeError("coefficients", "[(degree + 1)^2, channels]", (coefficients,))
    return degree


def project(texels: Tensor, degree: int = IRRADIANCE_DEGREE) -> Tensor:
    """Return the coefficients [(degree + 1)^2, C] of a cube map [6, R, R, C]; linear in it."""
    cubemap.check_cubemap(texels)
    resolution = texels.shape[1]
    place = directions.cube_directions(resolution).to(texels.device, texels.dtype)
    area = directions.cube_solid_angles(resolution).to(texels.device, texels.dtype)
    return torch.einsum("fyxk,fyxc->kc", basis(place, degree) * area[..., None], texels)


def irradiance(coefficients: Tensor, normal: Tensor) -> Tensor:
    """Return irradiance / pi [..., C] at unit normals [..., 3] under light of coefficients [..., K, C], K >= 9.

    Source: Ramamoorthi and Hanrahan 2001. Limits: bands to 2 only, so it may become a little negative behind small lamps
    (never cut off here: that would stop gradients).
    """
    count = (IRRADIANCE_DEGREE + 1) ** 2
    if coefficients.shape[-2] < count:
        raise ShapeError("coefficients", f"[..., K >= {count}, channels]", tuple(coefficients.shape))
    weight = basis(normal, IRRADIANCE_DEGREE) * _convolution(normal)
    return torch.einsum("...k,...kc->...c", weight, coefficients[..., :count, :])


def _convolution(like: Tensor) -> Tensor:
    bands = [COSINE[band] / math.pi for band in range(IRRADIANCE_DEGREE + 1) for _ in range(2 * band + 1)]
    return torch.tensor(bands, dtype=like.dtype).to(like.device)


@functools.lru_cache(maxsize=8)
def triple_products(first: int, second: int, third: int) -> Tensor:
    """Return the integrals [K1, K2, K3] float64 of products of three harmonics of degrees `first`, `second`, `third`.

    Exact: Gauss-Legendre in z, even steps around, enough of each for polynomials of the summed degree.
    """
    total = first + second + third
    from numpy.polynomial.legendre import leggauss

    nodes, weights = (torch.from_numpy(values) for values in leggauss(total // 2 + 1))
    angle = torch.arange(total + 1, dtype=torch.float64) * (2.0 * math.pi / (total + 1))
    flat = (1.0 - nodes**2).sqrt()[:, None]
    place = torch.stack([flat * angle.cos(), flat * angle.sin(), nodes[:, None].expand(-1, total + 1)], dim=-1)
    area = (weights * (2.0 * math.pi / (total + 1)))[:, None].expand(-1, total + 1)
    a, b, c = (basis(place, degree) for degree in (first, second, third))
    return torch.einsum("ij,ijp,ijq,ijr->pqr", area, a, b, c)


def irradiance_seen(coefficients: Tensor, visibility: Tensor, normal: Tensor) -> Tensor:
    """Return irradiance / pi [..., C] at unit normals [..., 3] of light of which a part is hidden.

    Args:
        coefficients: [Kl, C] of the light. visibility: [..., Kv] of the share in [0, 1] of each direction that is open.

    Source: Ye et al. 2024 (progressive radiance distillation): the product of light and visibility by triple products.
    Limits: soft shadows only; visibility = (2 sqrt(pi), 0, ...) is an open sky and gives `irradiance` of the same bands.
    """
    light, open_degree = degree_of(coefficients.shape[-2]), degree_of(visibility.shape[-1])
    table = triple_products(open_degree, light, IRRADIANCE_DEGREE).to(coefficients.device, coefficients.dtype)
    lit = torch.einsum("vlk,lc->vkc", table, coefficients)
    return irradiance(torch.einsum("...v,vkc->...kc", visibility, lit), normal)


@dataclass(frozen=True)
class ShLight:
    """A light of few coefficients [K, 3], K = (degree + 1)^2 >= 9, with the methods of `Prefiltered`.

    Limits: band-limited, hence blurred, and negative in places where a lamp is strong.
    """

    coefficients: Tensor

    @property
    def degree(self) -> int:
        """Highest band."""
        return degree_of(self.coefficients.shape[0])

    def radiance(self, direction: Tensor) -> Tensor:
        """Return the light [..., 3] that comes from unit directions [..., 3]."""
        return basis(direction, self.degree) @ self.coefficients

    def diffuse(self, normal: Tensor) -> Tensor:
        """Return irradiance / pi, [..., 3], at unit normals [..., 3]."""
        return irradiance(self.coefficients, normal)

    def specular(self, direction: Tensor, roughness: Tensor) -> Tensor:
        """Return the light [..., 3] about unit directions, blurred by the lobe of `roughness` [..., 1]."""
        table = lobe_bands(self.degree).to(direction.device, direction.dtype)
        place = (roughness.clamp(0.0, 1.0) * (ROUGHNESS_STEPS - 1)).expand(*direction.shape[:-1], 1)
        low = place.detach().floor().clamp_max(ROUGHNESS_STEPS - 2)
        index = low[..., 0].long()
        # One index a row of the flat table: [..., bands].
        start, end = (table.index_select(0, (index + step).flatten()).view(*index.shape, -1) for step in (0, 1))
        band = start + (place - low) * (end - start)
        repeat = torch.tensor([2 * k + 1 for k in range(self.degree + 1)])
        order = torch.repeat_interleave(torch.arange(self.degree + 1), repeat).to(direction.device)
        return (basis(direction, self.degree) * band.index_select(-1, order)) @ self.coefficients


@functools.lru_cache(maxsize=4)
def lobe_bands(degree: int, samples: int = 4096) -> Tensor:
    """Return by how much the lobe of `Prefiltered.specular` weakens each band, [ROUGHNESS_STEPS, degree + 1] float32.

    Rows are roughnesses from 0 to 1. With half vectors drawn by D cos, a light at cosine t to R weighs max(t, 0).
    """
    share = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    alpha = torch.linspace(0.0, 1.0, ROUGHNESS_STEPS, dtype=torch.float64).square()[:, None]
    t = 2.0 * (1.0 - share) / (1.0 + (alpha.square() - 1.0) * share) - 1.0
    weight = t.clamp_min(0.0)
    legendre = [torch.ones_like(t), t]
    for band in range(2, degree + 1):
        legendre.append(((2 * band - 1) * t * legendre[-1] - (band - 1) * legendre[-2]) / band)
    bands = [(weight * value).sum(dim=1) / weight.sum(dim=1) for value in legendre[: degree + 1]]
    return torch.stack(bands, dim=1).float()
