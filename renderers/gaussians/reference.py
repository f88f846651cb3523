"""Dense compositing in plain torch: every pixel against every Gaussian. Obviously right, any dtype and device, slow."""

from __future__ import annotations

import weakref

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from renderers.gaussians import constants
from renderers.gaussians.projection import Projection

STRIP_ENTRIES = 4_000_000
"""Pixel-Gaussian pairs treated at once; larger images are cut in strips, recomputed in backward."""


def composite(
    projection: Projection, features: Tensor, width: int, height: int, absgrad: bool = False
) -> tuple[Tensor, Tensor]:
    """Return blended features [C, H, W, D] (no background) and alphas [C, H, W, 1].

    Args:
        projection: what `projection.project` returns for C cameras and N Gaussians.
        features: [C, N, D], any channels.
        absgrad: after backward, `projection.means2d.absgrad` [C, N, 2] holds the sum over pixels of |gradient|.

    Source: the blending rules of gsplat 1.5.3 (see `constants`), equation 3 of Kerbl et al., 2023.
    Limits: time and memory grow with pixels times Gaussians.
    """
    if projection.means2d.shape[1] == 0:
        empty = features.new_zeros(features.shape[0], height, width, features.shape[2])
        return empty + 0.0 * features.sum(), empty.new_zeros(*empty.shape[:3], 1) + 0.0 * projection.opacities.sum()
    sums: dict[int, Tensor] = {}
    images = [
        _camera(
            Projection(*(field[i] for field in projection)), features[i], width, height, sums if absgrad else None, i
        )
        for i in range(features.shape[0])
    ]
    if absgrad and projection.means2d.requires_grad:
        _publish_absgrad(projection.means2d, sums)
    return torch.stack([image[..., :-1] for image in images]), torch.stack([image[..., -1:] for image in images])


def _camera(
    view: Projection, features: Tensor, width: int, height: int, sums: dict[int, Tensor] | None, index: int
) -> Tensor:
    """Return [H, W, D + 1] blended features and alpha of one camera."""
    order = torch.argsort(view.depths.detach(), stable=True)
    sorted_view = Projection(*(field[order] for field in view))
    with_alpha = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)[order]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([columns, rows], dim=-1).reshape(-1, 2).to(view.means2d) + 0.5
    strip = max(1, STRIP_ENTRIES // len(order))
    if sums is not None:  # the inverse permutation brings per-Gaussian sums back to their own order
        inverse = torch.argsort(order)
        sums[index] = torch.zeros_like(view.means2d)

        def collect(gradient: Tensor) -> None:
            sums[index].add_(gradient.abs().sum(dim=0)[inverse])

    def blend(strip_pixels: Tensor) -> Tensor:
        means2d = sorted_view.means2d.expand(len(strip_pixels), -1, -1)  # [P, N, 2]: a gradient for every pixel
        if sums is not None and means2d.requires_grad:
            means2d.register_hook(collect)
        return _weights(means2d, sorted_view, strip_pixels) @ with_alpha

    if len(pixels) <= strip:
        return blend(pixels).reshape(height, width, -1)
    parts = [checkpoint(blend, part, use_reentrant=False, preserve_rng_state=False) for part in pixels.split(strip)]
    return torch.cat(parts).reshape(height, width, -1)


def _weights(means2d: Tensor, view: Projection, pixels: Tensor) -> Tensor:
    """Return the [P, N] blending weights of depth-sorted Gaussians."""
    dx, dy = (means2d - pixels[:, None]).unbind(-1)
    a, b, c = view.conics.unbind(-1)
    sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
    alpha = (view.opacities * torch.exp(-sigma.clamp_min(0.0))).clamp_max(constants.ALPHA_MAX)
    counts = (view.radii > 0).all(dim=-1) & (sigma >= 0) & (alpha >= constants.ALPHA_MIN)
    alpha = torch.where(counts, alpha, torch.zeros_like(alpha))
    # A sum of logarithms: the product's own backward needs to look at values, which a device without data cannot.
    log_transmittance = torch.log1p(-alpha).cumsum(dim=1)
    behind = torch.exp(log_transmittance)
    before = torch.exp(log_transmittance - torch.log1p(-alpha))
    # Transmittance only falls, so "stop before the one that crosses" is the same as "keep those that do not cross".
    return torch.where(behind > constants.TRANSMITTANCE_MIN, alpha * before, torch.zeros_like(alpha))


def _publish_absgrad(means2d: Tensor, sums: dict[int, Tensor]) -> None:
    """Set `means2d.absgrad` when the gradient of means2d itself is complete."""
    target = weakref.ref(means2d)  # a strong reference would be a cycle: tensor, hook, tensor

    def publish(_: Tensor) -> None:
        alive = target()
        if alive is not None:
            alive.absgrad = torch.stack([sums[i] for i in range(len(sums))])  # type: ignore[attr-defined]
        for total in sums.values():
            total.zero_()  # a graph may be walked again

    means2d.register_hook(publish)
