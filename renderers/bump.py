"""Normals that a material turns a little: relief that the triangles do not have."""

from __future__ import annotations

import torch
from torch import Tensor


def bent(normal: Tensor, offset: Tensor, strength: float) -> Tensor:
    """Return unit normals [..., 3]: n + strength (o - (o . n) n), made unit, for offsets o [..., 3] in [-1, 1]^3.

    The offset is a vector of the world of which the part along the surface counts, so no tangents are needed and nothing jumps
    where they would. A zero normal (nothing is there) stays zero.

    Source: the perturbed normals of nvdiffrec and Fantasia3D. Deviation: theirs are tangent-space (x, y, z >= 0), with tangents
        from texture coordinates, which a mesh has only once it is exported.
    """
    along = (offset * normal).sum(dim=-1, keepdim=True)
    return torch.nn.functional.normalize(normal + strength * (offset - along * normal), dim=-1)
