"""Small random scenes for the Gaussian tests."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit


@dataclass
class Scene:
    """Gaussians and cameras as `rasterise` takes them."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor
    viewmats: Tensor
    Ks: Tensor
    width: int
    height: int

    @property
    def gaussians(self) -> list[Tensor]:
        return [self.means, self.quats, self.scales, self.opacities, self.colors]

    def to(self, dtype: torch.dtype) -> Scene:
        """Return a copy in `dtype` whose Gaussians are leaves that require gradients."""
        leaves = [t.detach().to(dtype).requires_grad_() for t in self.gaussians]
        return Scene(*leaves, self.viewmats.to(dtype), self.Ks.to(dtype), self.width, self.height)

    def call(self) -> tuple[object, ...]:
        return (*self.gaussians, self.viewmats, self.Ks, self.width, self.height)


def _make_scene(
    count: int = 60,
    cameras: int = 2,
    width: int = 37,
    height: int = 21,
    channels: int = 3,
    seed: int = 0,
    distance: float = 2.4,
    spread: float = 0.6,
    size: float = 0.1,
    anisotropy: float = 0.5,
) -> Scene:
    """Return anisotropic Gaussians about the origin, seen from around it."""
    generator = torch.Generator().manual_seed(seed)
    full = torch.ones(cameras)
    views = orbit(torch.arange(cameras) * 130.0 + 17.0, 15.0 * full, distance * full, 49.0, width, height)
    return Scene(
        means=spread * torch.randn(count, 3, generator=generator),
        quats=torch.randn(count, 4, generator=generator),
        scales=size * torch.exp(anisotropy * torch.randn(count, 3, generator=generator)),
        opacities=torch.sigmoid(1.5 * torch.randn(count, generator=generator) + 0.3),
        colors=torch.rand(count, channels, generator=generator),
        viewmats=views.world_to_cam,
        Ks=views.intrinsics.clone(),
        width=width,
        height=height,
    )


@pytest.fixture
def make_scene():
    return _make_scene
