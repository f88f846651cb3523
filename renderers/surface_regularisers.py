"""Loss terms that keep a triangle mesh smooth and its grid quiet. Each returns a scalar >= 0.

All sums run over the three directed edges of each triangle: in a closed mesh every edge comes twice, once a way, so means
over edges and over neighbours need no search for shared edges.
"""

from __future__ import annotations

import torch
from torch import Tensor


def directed_edges(faces: Tensor) -> tuple[Tensor, Tensor]:
    """Return (start [3 F], end [3 F]) vertices of the edges of faces [F, 3], face after face in each of three blocks."""
    return faces.t().reshape(-1), faces.t().roll(-1, dims=0).reshape(-1)


def normal_consistency(normals: Tensor, faces: Tensor) -> Tensor:
    """Return the mean over edges of 1 - cosine between the unit vertex normals [V, 3] at both ends.

    Source: the term of threestudio's mesh stages (Magic3D, ProlificDreamer), on vertex normals as there.
    """
    start, end = directed_edges(faces)
    return (1.0 - (normals.index_select(0, start) * normals.index_select(0, end)).sum(dim=1)).mean()


def laplacian(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean distance of vertices [V, 3] from the mean of their neighbours (uniform Laplacian), world units."""
    start, end = directed_edges(faces)
    ones = torch.ones_like(vertices[:, :1])
    values = torch.cat([vertices, ones], dim=1).index_select(0, end)
    total = vertices.new_zeros(vertices.shape[0], 4).index_add(0, start, values)
    is_used = total[:, 3:] > 0
    difference = torch.where(is_used, total[:, :3] / total[:, 3:].clamp_min(1.0) - vertices, torch.zeros_like(vertices))
    return (difference.square().sum(dim=1) + 1e-16).sqrt().mean()


def edge_length(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return the mean squared length of edges of vertices [V, 3], world units squared."""
    start, end = directed_edges(faces)
    return (vertices.index_select(0, start) - vertices.index_select(0, end)).square().sum(dim=1).mean()


def sdf_entropy(sdf: Tensor) -> Tensor:
    """Return the mean cross entropy of each end's sigmoid(distance) with the other end's sign, over crossed edges.

    sdf: [X, 2] signed distances at the inside (< 0) and the outside end of each crossed edge. Pulling both ends to one
    sign makes surfaces vanish that no picture needs, mostly inner ones.
    Source: Munkberg et al. (nvdiffrec), 2022, eq. 2; FlexiCubes' L_sign. Deviation: the mean of both ends, not their sum.
    """
    # With inside negative: the inside end is held against "outside" (target 1) and the outside end against "inside" (0).
    inside, outside = sdf.unbind(dim=1)
    return 0.5 * (torch.nn.functional.softplus(-inside) + torch.nn.functional.softplus(outside)).mean()


def deviation(values: Tensor) -> Tensor:
    """Return the mean of FlexiCubes' L_dev [D], world units. Source: Shen et al., 2023, eq. 8."""
    return values.mean()
