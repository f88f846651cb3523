"""The scene of `rasteriser`: a bumpy ball of random Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers.gaussians import constants
from renderers.gaussians.projection import project
from sds3d.cameras import orbit


@dataclass(frozen=True)
class Scene:
    """Parameters that require gradients, cameras, and the gradients that come back from the picture."""

    leaves: list[Tensor]
    viewmats: Tensor
    Ks: Tensor
    size: int
    upstream: Tensor
    upstream_alpha: Tensor

    @staticmethod
    def make(count: int, size: int, views: int, seed: int = 0) -> Scene:
        """Return `count` Gaussians on a bumpy ball of radius about 0.7, seen by `views` cameras around it."""
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        directions = torch.nn.functional.normalize(normal(count, 3), dim=1)
        bumps = 1 + 0.15 * torch.sin(5 * directions[:, 0]) * torch.cos(4 * directions[:, 1])
        means = directions * (0.8 * (1 - 0.175 * normal(count).abs()) * bumps)[:, None]
        scales = 0.385 * count ** (-1 / 3) * torch.exp(0.5 * normal(count, 3))
        opacities = torch.sigmoid(1.5 * normal(count) + 0.3)
        leaves = [means, normal(count, 4), scales, opacities, torch.rand(count, 3, generator=generator)]
        azimuth = torch.rad2deg(0.3 + 2 * math.pi * torch.arange(views) / views)
        full = torch.ones(views)
        cameras = orbit(azimuth, math.degrees(0.25) * full, 2.4 * full, 49.0, size, size)
        upstream, upstream_alpha = normal(views, size, size, 3), normal(views, size, size, 1)
        leaves = [leaf.requires_grad_() for leaf in leaves]
        return Scene(leaves, cameras.world_to_cam, cameras.intrinsics, size, upstream, upstream_alpha)


@torch.no_grad()
def covered_pixels(scene: Scene) -> float:
    """Return the number of pairs of a pixel and a Gaussian with alpha >= ALPHA_MIN there: the areas of all ellipses.

    (What an image border cuts off, and what lies behind finished pixels, counts too.)
    """
    view = project(*scene.leaves[:4], scene.viewmats, scene.Ks, scene.size, scene.size)
    seen = (view.radii > 0).all(dim=-1)
    a, b, c = view.conics[seen].double().unbind(-1)
    areas = 2 * math.pi * torch.log(view.opacities[seen] / constants.ALPHA_MIN) / (a * c - b * b).sqrt()
    return float(areas.sum())
