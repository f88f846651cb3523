"""Signed distances at the nodes of a grid: from a mesh, or from any function of space. Inside is negative."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from sds3d.errors import ConfigError

Field = Callable[[Tensor], Tensor]
PAIRS_AT_ONCE = 4_000_000
"""Point-triangle pairs looked at together."""
CLIP_CELLS = 2.0
"""Distances of functions are limited to this many cells: only near the surface can they be trusted."""


def winding_numbers(points: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Return [N] how often the mesh goes round each of `points` [N, 3]: 1 inside, 0 outside, between near holes.

    Source: Jacobson et al., "Robust inside-outside segmentation", 2013; solid angles by Van Oosterom and Strackee, 1983.
    """
    corners, total = vertices[faces], []
    step = max(1, PAIRS_AT_ONCE // max(1, len(faces)))
    for some in points.split(step):
        a, b, c = (corners[None, :, k] - some[:, None] for k in range(3))
        la, lb, lc = (v.norm(dim=2) for v in (a, b, c))
        volume = (a * torch.linalg.cross(b, c)).sum(dim=2)
        base = la * lb * lc + (a * b).sum(dim=2) * lc + (b * c).sum(dim=2) * la + (c * a).sum(dim=2) * lb
        total.append(torch.atan2(volume, base).sum(dim=1) / (2.0 * math.pi))
    return torch.cat(total) if total else points.new_zeros(0)


@torch.no_grad()
def distances_to_mesh(
    nodes: Tensor, blocks: Sequence[int], cell: float, vertices: Tensor, faces: Tensor, samples: int = 200_000
) -> Tensor:
    """Return [N] signed distances of grid nodes [N, 3] to a mesh (faces counter-clockwise seen from outside), world units.

    blocks: sides of the cubic blocks of nodes, in order, x slowest; neighbours in a block are `cell` apart. Nodes within
    0.6 cells of the surface are told inside from outside by their winding number, all others by that of one node of the
    region they are connected to.
    Limits: lengths are to `samples` random points of the surface, so a little too long; parts thinner than a cell may
    vanish; holes are closed as the winding number sees them.
    """
    from scipy.ndimage import label
    from scipy.spatial import cKDTree

    draws = torch.Generator().manual_seed(0)
    length = cKDTree(sample_faces(vertices, faces, samples, draws)[0].numpy()).query(nodes.numpy())[0]
    unknown = length < 0.6 * cell
    region, first = np.zeros(len(nodes), np.int64), 0
    start = 0
    for side in blocks:
        part = slice(start, start + side**3)
        labels, count = label(~unknown[part].reshape(side, side, side))
        region[part] = np.where(labels.reshape(-1) > 0, labels.reshape(-1) + first, 0)
        first, start = first + count, part.stop
    _, one_of = np.unique(region, return_index=True)
    one_of = one_of[region[one_of] > 0]
    ask = np.concatenate([np.flatnonzero(unknown), one_of])
    inside = (winding_numbers(nodes[ask], vertices, faces) > 0.5).numpy()
    sign_of_region = np.zeros(first + 1, bool)
    sign_of_region[region[one_of]] = inside[len(ask) - len(one_of) :]
    is_inside = sign_of_region[region]
    is_inside[unknown] = inside[: int(unknown.sum())]
    return torch.from_numpy(np.where(is_inside, -length, length).astype(np.float32))


def sample_faces(
    vertices: Tensor, faces: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (points [count, 3], face [count], weight [count, 3]), uniform on a mesh."""
    a, b, c = vertices[faces].unbind(dim=1)
    area = torch.linalg.cross(b - a, c - a).norm(dim=1).double()
    ends = area.cumsum(0)
    face = torch.searchsorted(ends, torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1])
    face = face.clamp_max(len(faces) - 1)
    # Square root and a uniform share: uniform on a triangle (Osada et al., "Shape distributions", 2002, eq. 1).
    root, share = torch.rand(2, count, generator=generator)
    root = root.sqrt()
    weight = torch.stack([1.0 - root, root * (1.0 - share), root * share], dim=1)
    return (weight[..., None] * vertices[faces[face]]).sum(dim=1), face, weight


@torch.no_grad()
def distances_of_field(
    nodes: Tensor, cell: float, field: Field, kind: str, iso: float | None, chunk: int = 1 << 18
) -> Tensor:
    """Return [N] approximate signed distances of `nodes` [N, 3] to the surface of a function.

    Args:
        field: takes points [n, 3] and returns [n] values. kind: "sdf", whose surface is at `iso` (None: 0), negative
            inside; or "density", >= 0, inside where above `iso` (None: `automatic_iso`).

    The value is divided by the length of its gradient (central differences over half a cell) and limited to
    `CLIP_CELLS`. Densities are compared by logarithms, in which they change evenly across a surface.
    Raises: ConfigError if the field is not finite, or the same on both sides everywhere.
    """
    if kind not in ("sdf", "density"):
        raise ConfigError(f"The field is of kind '{kind}', which is unknown. Use 'sdf' or 'density'.", "kind")
    values = _evaluate(field, nodes, chunk)
    _check_finite(values)
    level = (0.0 if kind == "sdf" else automatic_iso(values)) if iso is None else iso

    def signed(raw: Tensor) -> Tensor:
        return raw - level if kind == "sdf" else math.log1p(level) - torch.log1p(raw.clamp_min(0.0))

    value = signed(values)
    if bool((value < 0).all()) or bool((value >= 0).all()):
        low, high = float(values.min()), float(values.max())
        raise ConfigError(
            f"The {kind} has no surface at iso {level:g}: its values are between {low:g} and {high:g}. Choose an iso between "
            "them, or null to have it chosen.",
            "iso",
        )
    steps = 0.25 * cell * torch.eye(3, dtype=nodes.dtype)
    slope = [signed(_evaluate(field, nodes + s, chunk)) - signed(_evaluate(field, nodes - s, chunk)) for s in steps]
    steep = torch.stack(slope, dim=1).norm(dim=1) / (0.5 * cell)
    limit = CLIP_CELLS * cell
    return (value / steep.clamp_min(1e-6)).clamp(-limit, limit)


def automatic_iso(density: Tensor) -> float:
    """Return the density [N] that divides empty from solid best: Otsu's threshold.

    Densities above twice the typical solid one (the median of those above the mean in logarithms) count as that: a few
    very dense nodes shall not decide. Source: Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    values = density.clamp_min(0.0).double()
    solid = values[values > values.log1p().mean().expm1()]
    if len(solid):
        values = values.clamp_max(2.0 * float(solid.median()))
    ordered = values.sort().values
    count = torch.arange(1, len(ordered), dtype=torch.float64)
    below, whole = ordered.cumsum(0)[:-1], ordered.sum()
    between = (below / count - (whole - below) / (len(ordered) - count)).square() * count * (len(ordered) - count)
    best = int(between.argmax())
    return 0.5 * float(ordered[best] + ordered[best + 1])


def _check_finite(values: Tensor) -> None:
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).sum())
        raise ConfigError(
            f"The field is not finite at {bad} of {len(values)} nodes of the grid, but all must be. Convert from an earlier "
            "checkpoint, before it diverged.",
            "field",
        )


def _evaluate(field: Field, points: Tensor, chunk: int) -> Tensor:
    return torch.cat([field(some).detach().float().reshape(-1) for some in points.split(chunk)])
