"""Real spherical harmonics up to degree 3: colours that depend on the direction of sight."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ConfigError, ShapeError

DEGREE_0 = 0.28209479177387814
"""The constant basis function, 1 / (2 sqrt(pi)); rgb = 0.5 + DEGREE_0 * sh0."""

DEGREE_MAX = 3


def sh0_from_rgb(rgb: Tensor) -> Tensor:
    """Return degree-0 coefficients [..., 3] of colours in [0, 1] [..., 3]."""
    return (rgb - 0.5) / DEGREE_0


def rgb_from_sh0(sh0: Tensor) -> Tensor:
    """Return the colours max(0, 0.5 + DEGREE_0 * sh0) [..., 3] (not limited above, as in every splat viewer)."""
    return (sh0 * DEGREE_0 + 0.5).clamp_min(0.0)


def basis(directions: Tensor, degree: int) -> Tensor:
    """Return the [..., (degree + 1)^2] basis values at unit `directions` [..., 3], ordered m = -l .. l in each degree.

    Raises: ConfigError if degree is not in 0 .. 3.
    Source: the convention of 3D Gaussian Splatting files (Condon-Shortley signs), e.g. Sloan, JCGT 2(2), 2013.
    """
    if not 0 <= degree <= DEGREE_MAX:
        raise ConfigError(
            f"sh_degree is {degree}, but 0 to {DEGREE_MAX} is supported. Use a lower degree.", "sh_degree"
        )
    x, y, z = directions.unbind(-1)
    values = [torch.full_like(x, DEGREE_0)]
    if degree >= 1:
        values += [-0.48860251190292 * y, 0.48860251190292 * z, -0.48860251190292 * x]
    if degree >= 2:
        values += [
            1.092548430592079 * x * y,
            -1.092548430592079 * y * z,
            0.9461746957575601 * z * z - 0.3153915652525201,
            -1.092548430592079 * x * z,
            0.5462742152960395 * (x * x - y * y),
        ]
    if degree >= 3:
        common = 0.4570457994644658 - 2.285228997322329 * z * z
        values += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            common * y,
            z * (1.865881662950577 * z * z - 1.119528997770346),
            common * x,
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return torch.stack(values, dim=-1)


def evaluate(coefficients: Tensor, means: Tensor, viewmats: Tensor, degree: int) -> Tensor:
    """Return colours max(0, SH + 0.5), [N, 3] for degree 0 of shared coefficients, otherwise [C, N, 3].

    Args:
        coefficients: [N, K, 3] or [C, N, K, 3] with K >= (degree + 1)^2; further bands are ignored.
        means: [N, 3] Gaussian centres, world frame. Gradients flow through the direction of sight.
        viewmats: [C, 4, 4] world to camera.
        degree: highest degree used, 0 to 3.

    Raises: ShapeError if there are fewer than (degree + 1)^2 coefficients; ConfigError for an unsupported degree.
    """
    count = (degree + 1) ** 2
    if coefficients.shape[-2] < count:
        raise ShapeError("colors", f"[..., K >= {count}, 3] for sh_degree={degree}", tuple(coefficients.shape))
    if degree == 0:
        return rgb_from_sh0(coefficients[..., 0, :])
    centres = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:])[..., 0]  # [C, 3]
    directions = torch.nn.functional.normalize(means[None] - centres[:, None], dim=-1)  # [C, N, 3]
    values = basis(directions, degree)  # [C, N, K]
    return ((values[..., None] * coefficients[..., :count, :]).sum(dim=-2) + 0.5).clamp_min(0.0)
