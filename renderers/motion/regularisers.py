"""Loss terms of motion. Trajectories are [F, P, 3] at evenly spaced times; too short ones give 0 with a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.motion.similarity import gauge_parts


def velocity(points: Tensor) -> Tensor:
    """Return the mean squared distance a point travels between frames."""
    return _mean_square(points[1:] - points[:-1], points)


def acceleration(points: Tensor) -> Tensor:
    """Return the mean squared second difference over frames."""
    return _mean_square(points[2:] - 2.0 * points[1:-1] + points[:-2], points)


def loop_gap(points: Tensor) -> Tensor:
    """Return the mean squared distance between first and last frame."""
    return _mean_square(points[-1:] - points[:1], points)


def residual_size(offsets: Tensor) -> Tensor:
    """Return the mean squared length of deformations [F, P, 3]."""
    return offsets.square().sum(dim=-1).mean()


def gauge_penalty(offsets: Tensor, rest: Tensor, has_scale: bool) -> Tensor:
    """Return the mean over frames of |mean D|^2 + |mean X x D|^2 (+ (mean X . D)^2), X = `rest` [P, 3] centred."""
    centred = rest.detach() - rest.detach().mean(dim=0)
    turning = torch.linalg.cross(centred.expand_as(offsets), offsets, dim=-1).mean(dim=1)
    found = offsets.mean(dim=1).square().sum(dim=-1) + turning.square().sum(dim=-1)
    if has_scale:
        found = found + (centred * offsets).sum(dim=-1).mean(dim=1).square()
    return found.mean()


def length(points: Tensor, rest: Tensor, chains: Tensor) -> Tensor:
    """Return the mean of (L(f) / L(rest) - 1)^2 over chains [N, L] of indices: strokes, or edges with L = 2."""
    now, then = _chain_lengths(points, chains), _chain_lengths(rest[None], chains)
    return (now / then.clamp(min=1e-12) - 1.0).square().mean()


def _chain_lengths(points: Tensor, chains: Tensor) -> Tensor:
    along = points.index_select(1, chains.flatten()).unflatten(1, tuple(chains.shape))
    # Rooted a little above 0, so that two points in one place have a finite gradient.
    return ((along[:, :, 1:] - along[:, :, :-1]).square().sum(dim=-1) + 1e-20).sqrt().sum(dim=-1)


def nearest_neighbours(rest: Tensor, count: int) -> Tensor:
    """Return [P, k] int64, the nearest other points of each (k = count, or all others if there are fewer)."""
    from scipy.spatial import cKDTree

    places = rest.detach().cpu().double().numpy()
    kept = max(1, min(count, len(places) - 1))
    _, found = cKDTree(places).query(places, k=min(kept + 1, len(places)))
    index = torch.as_tensor(found).reshape(len(places), -1)
    # A point is usually its own nearest; where twins took its place, drop the farthest instead.
    own = torch.arange(len(places))[:, None]
    order = (index == own).to(torch.int8).argsort(dim=1, stable=True)
    return index.gather(1, order)[:, :kept].long().to(rest.device)


def _edges(points: Tensor, neighbours: Tensor) -> Tensor:
    """Return [F, P, k, 3], from every point to its neighbours."""
    ends = points.index_select(1, neighbours.flatten()).unflatten(1, tuple(neighbours.shape))
    return ends - points[:, :, None]


def edge_weights(rest: Tensor, neighbours: Tensor, sharpness: float = 10.0) -> Tensor:
    """Return [P, k], exp(-sharpness * distance at rest). Source: Dynamic 3D Gaussians, with its distance at rest."""
    return torch.exp(-sharpness * _edges(rest[None], neighbours)[0].norm(dim=-1))


def rigidity(points: Tensor, rotations: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """Return how much neighbours move in each other's turning frame from one frame to the next.

    Mean over i, its neighbours j and f of sqrt(w_ij |e_ij(f-1) - R_i(f-1) R_i(f)^-1 e_ij(f)|^2 + 1e-20), e_ij = x_j - x_i.

    Args: points [F, P, 3]. rotations [F, P, 3, 3] of the points. neighbours, weights: [P, k].
    Source: Dynamic 3D Gaussians (Luiten et al. 2024), short-term rigidity. Deviation: the rotation back is the one that
        makes a rigid motion cost nothing (a public 4D code base has it transposed).
    """
    edges = _edges(points, neighbours)
    local = edges @ rotations  # rows R^-1 e
    back = local[1:] @ rotations[:-1].transpose(-1, -2)
    difference = (edges[:-1] - back).square().sum(dim=-1)
    return _mean((weights * difference + 1e-20).sqrt(), points)


def arap(points: Tensor, rest: Tensor, neighbours: Tensor, weights: Tensor) -> Tensor:
    """Return the mean weighted squared deviation of edges from the best rotation of each point's rest edges.

    As rigid as possible: 0 for any rigid motion. The rotation is a constant for the gradient (it is a minimiser).
    Source: Sorkine and Alexa 2007. Limits: a 3x3 singular value decomposition a point and frame, so keep P small; the
    points of points on a line have many best rotations, of which any serves.
    """
    before, now = _edges(rest[None], neighbours)[0], _edges(points, neighbours)
    with torch.no_grad():
        covariance = torch.einsum("fpki,pkj->fpij", weights[..., None] * now, before)
        left, _, right = torch.linalg.svd(covariance)
        flips = torch.ones_like(left[..., 0, :])
        flips[..., 2] = torch.linalg.det(left @ right)
        rotation = (left * flips[..., None, :]) @ right
    turned = torch.einsum("fpij,pkj->fpki", rotation, before)
    return (weights * (now - turned).square().sum(dim=-1)).mean()


def moment_divergence(points: Tensor, rest: Tensor) -> Tensor:
    """Return the mean over frames of the divergence between the clouds' means and variances now and at rest.

    Jensen-Shannon divergence of diagonal Gaussians, the mixture replaced by the Gaussian of its moments: with
    v = (v0 + vf) / 2 + ((m0 - mf) / 2)^2 the two Kullback-Leibler terms add up to sum over axes of
    log(v / sqrt(v0 vf)) / 2. In nats. Source: Align Your Gaussians (arXiv 2312.13763), whose exact form is not published.
    """
    then, now = rest.mean(dim=0), points.mean(dim=1)
    v0, vf = rest.var(dim=0, correction=0) + 1e-12, points.var(dim=1, correction=0) + 1e-12
    mixed = 0.5 * (v0 + vf) + (0.5 * (then - now)).square()
    return (0.5 * (mixed.log() - 0.5 * (v0.log() + vf.log()))).sum(dim=-1).mean()


def plane_variation(planes: list[Tensor]) -> Tensor:
    """Return the sum over planes [1, C, h, w] of mean squared differences of neighbouring cells."""
    terms = [(plane[:, :, 1:] - plane[:, :, :-1]).square().mean() for plane in planes]
    return torch.stack(terms + [(plane[..., 1:] - plane[..., :-1]).square().mean() for plane in planes]).sum()


def time_smoothness(planes: list[Tensor]) -> Tensor:
    """Return the sum over planes [1, C, time, w] of mean squared second differences along time (0 below 3 cells)."""
    return torch.stack([_mean((p[:, :, 2:] - 2 * p[:, :, 1:-1] + p[:, :, :-2]).square(), p) for p in planes]).sum()


def time_planes(planes: list[Tensor]) -> Tensor:
    """Return the sum over planes of the mean distance from 1, where nothing depends on time."""
    return torch.stack([(1.0 - plane).abs().mean() for plane in planes]).sum()


def rigid_share(offsets: Tensor, rest: Tensor) -> Tensor:
    """Return [F], the root mean square of the infinitesimal rigid motion in offsets [F, P, 3]: 0 in the gauge."""
    shift, turning, rate = gauge_parts(offsets, rest)
    centred = rest - rest.mean(dim=0)
    moved = torch.linalg.cross(turning[:, None].expand_as(offsets), centred.expand_as(offsets), dim=-1)
    return (shift[:, None] + moved + rate[:, None, None] * centred).square().sum(dim=-1).mean(dim=1).sqrt()


def _mean_square(difference: Tensor, like: Tensor) -> Tensor:
    return _mean(difference.square().sum(dim=-1), like)


def _mean(values: Tensor, like: Tensor) -> Tensor:
    """Return the mean, or 0 with a gradient to `like` if there is nothing to take it of."""
    return values.mean() if values.numel() else 0.0 * like.sum()
