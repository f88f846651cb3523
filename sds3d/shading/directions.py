"""Where the texels of an environment map are: cube faces and latitude-longitude images, and their solid angles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FACES = ("+x", "-x", "+y", "-y", "+z", "-z")
"""Order of the faces of a cube map [6, R, R, 3]; see `face_directions` for how each lies in space."""

_TINY = 1e-8


def face_directions(face: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return vectors [..., 3], not unit, of places on the cube [-1, 1]^3.

    Args: face: [...] int64, index into `FACES`. x, y: [...], along the columns and down the rows of a face; they may lie
        outside of [-1, 1] (the plane of the face goes on).
    Source: OpenGL's cube map layout, taken in our world axes (nvdiffrast's boundary_mode="cube" has the same).
    """
    one = torch.ones_like(x)
    table = torch.stack(
        [
            torch.stack([one, -y, -x], dim=-1),
            torch.stack([-one, -y, x], dim=-1),
            torch.stack([x, one, y], dim=-1),
            torch.stack([x, -one, -y], dim=-1),
            torch.stack([x, -y, one], dim=-1),
            torch.stack([-x, -y, -one], dim=-1),
        ]
    )
    return table.gather(0, face[None, ..., None].expand(1, *table.shape[1:]))[0]


def face_places(direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return (face, x, y), each [...], where directions [..., 3] (any length) leave the cube; x, y in [-1, 1].

    Differentiable in x and y. On an edge the face of the first axis is taken.
    """
    dx, dy, dz = direction.unbind(-1)
    ax, ay, az = dx.abs(), dy.abs(), dz.abs()
    on_x = (ax >= ay) & (ax >= az)
    on_y = ~on_x & (ay >= az)
    major = torch.where(on_x, ax, torch.where(on_y, ay, az)).clamp_min(_TINY)
    is_negative = torch.where(on_x, dx, torch.where(on_y, dy, dz)) < 0
    sign = torch.where(is_negative, -1.0, 1.0).to(direction.dtype)
    x = torch.where(on_x, -sign * dz, torch.where(on_y, dx, sign * dx)) / major
    y = torch.where(on_y, sign * dz, -dy) / major
    axis = torch.where(on_x, 0, torch.where(on_y, 1, 2))
    return 2 * axis + is_negative.long(), x, y


def cube_directions(resolution: int, per_texel: int = 1) -> Tensor:
    """Return the unit directions [6, R n, R n, 3] of n x n = `per_texel`^2 even points in each of the 6 R^2 texels."""
    count = resolution * per_texel
    centre = (torch.arange(count, dtype=torch.float64) + 0.5) * (2.0 / count) - 1.0
    face = torch.arange(6)[:, None, None].expand(6, count, count)
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.nn.functional.normalize(
        face_directions(face, x.expand(6, -1, -1), y.expand(6, -1, -1)), dim=-1
    ).float()


def cube_solid_angles(resolution: int) -> Tensor:
    """Return the exact solid angles [6, R, R] float64 of the texels of a cube map, sr; they sum to 4 pi.

    By the corners: with A(x, y) = atan2(x y, sqrt(x^2 + y^2 + 1)), a texel covers A(1,1) - A(0,1) - A(1,0) + A(0,0).
    """
    edge = torch.linspace(-1.0, 1.0, resolution + 1, dtype=torch.float64)
    y, x = torch.meshgrid(edge, edge, indexing="ij")
    corner = torch.atan2(x * y, (x * x + y * y + 1.0).sqrt())
    area = corner[1:, 1:] - corner[:-1, 1:] - corner[1:, :-1] + corner[:-1, :-1]
    return area.expand(6, -1, -1).contiguous()


def latlong_directions(height: int, per_texel: int = 1) -> Tensor:
    """Return the unit directions [H n, 2 H n, 3] of a latitude-longitude image of H rows, n x n points a texel.

    Row 0 is at the zenith (+Z); a column u in [0, 1] looks to azimuth pi - 2 pi u: the middle column is +X.
    """
    rows, columns = height * per_texel, 2 * height * per_texel
    polar = (torch.arange(rows, dtype=torch.float64) + 0.5) * (math.pi / rows)
    azimuth = math.pi - (torch.arange(columns, dtype=torch.float64) + 0.5) * (2.0 * math.pi / columns)
    polar, azimuth = torch.meshgrid(polar, azimuth, indexing="ij")
    flat = polar.sin()
    return torch.stack([flat * azimuth.cos(), flat * azimuth.sin(), polar.cos()], dim=-1).float()


def latlong_places(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Return (u, v), each [...] in [0, 1], of unit directions [..., 3] in a latitude-longitude image.

    Blender's convention: v = acos(z) / pi, u = 1/2 - atan2(y, x) / 2 pi. Differentiable away from the poles.
    """
    x, y, z = direction.unbind(-1)
    flat = (x * x + y * y).clamp_min(_TINY**2).sqrt()
    is_pole = flat <= _TINY
    azimuth = torch.atan2(torch.where(is_pole, torch.zeros_like(y), y), torch.where(is_pole, torch.ones_like(x), x))
    return (0.5 - azimuth / (2.0 * math.pi)).remainder(1.0), torch.atan2(flat, z) / math.pi


def latlong_solid_angles(height: int) -> Tensor:
    """Return the exact solid angles [H, 1] float64 of the texels of each row of an image of 2 H columns, sr."""
    edge = torch.linspace(0.0, math.pi, height + 1, dtype=torch.float64).cos()
    return ((edge[:-1] - edge[1:]) * (2.0 * math.pi / (2 * height)))[:, None]
