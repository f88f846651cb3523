"""A signed distance field with colours, and the two rules that make it opaque: NeuS and VolSDF."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from renderers.fields.build import make_encoding
from renderers.fields.encodings import through
from renderers.fields.networks import Mlp
from sds3d.config.nerf import SdfConfig

REACH = 6.0
"""In units of 1 / sharpness: further outside, both rules are as good as transparent, and exp(-6) = 0.25 % of the light
gets so far inside."""


class SdfField(nn.Module):
    """Signed distance [N] (negative inside) and colour [N, 3] of points [N, 3] in the box [-radius, radius]^3.

    The network adds to the distance from a sphere and starts at 0, so the field starts as exactly that sphere.
    `log_sharpness` is learnt: NeuS's s, VolSDF's 1 / beta.
    Deviation from Wang et al. 2021 (NeuS) and Yariv et al. 2021 (VolSDF): the sphere is added instead of approximated
    by the initial weights, and colours see neither the normal nor the direction of view.
    """

    def __init__(self, config: SdfConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.encoding = make_encoding(config.encoding, generator)
        self.network = Mlp(
            self.encoding.out_channels + 3,  # the point itself too: smooth, global changes of shape
            4,
            generator,
            hidden=config.hidden,
            layers=config.layers,
            activation="softplus",
            last_gain=0.0,
        )
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(config.sharpness)))

    @property
    def sharpness(self) -> Tensor:
        """0-dim, per world unit."""
        return self.log_sharpness.exp()

    def distance(self, points: Tensor) -> Tensor:
        """Return [N] signed distances, world units, negative inside."""
        return self._sphere(points)[0] + self.network(self._features(points))[:, 0]

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return distances [N] and colours [N, 3]."""
        raw = self.network(self._features(points))
        return self._sphere(points)[0] + raw[:, 0], raw[:, 1:].sigmoid()

    def with_gradient(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances [N], colours [N, 3] and the gradient [N, 3] of the distance (length 1 once it is one).

        Limits: no gradient flows to the points.
        """
        unit = points / self.config.radius
        features, jacobian = self.encoding.with_jacobian(unit)
        raw, by_input = self.network.with_gradient(torch.cat([unit, features], dim=1))
        by_unit, by_features = by_input.split([3, by_input.shape[1] - 3], dim=1)
        gradient = (by_unit + through(by_features, jacobian)) / self.config.radius
        sphere, outwards = self._sphere(points)
        return sphere + raw[:, 0], raw[:, 1:].sigmoid(), outwards + gradient

    def _features(self, points: Tensor) -> Tensor:
        unit = points / self.config.radius
        return torch.cat([unit, self.encoding(unit)], dim=1)

    def _sphere(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the distance [N] from the first sphere and its gradient [N, 3]."""
        length = (points.square().sum(dim=-1, keepdim=True) + 1e-12).sqrt()
        return length[:, 0] - self.config.init_radius, points / length


def neus_depth(distance: Tensor, cosine: Tensor, width: Tensor, sharpness: Tensor, anneal: float = 1.0) -> Tensor:
    """Return the optical depth [N] of intervals by NeuS's rule.

    Args:
        distance: [N] signed distance in the middle of an interval.
        cosine: [N] gradient of the distance times direction of the ray, < 0 where the ray enters.
        width: [N] length of the interval. sharpness: s. anneal: 0 counts half of the sides seen from behind, 1 none.

    The opacity is max((Phi(f_1) - Phi(f_2)) / Phi(f_1), 0) with Phi the sigmoid of s f and f_1, f_2 the distances at the
    two ends, extrapolated; as an optical depth that is log Phi(f_1) - log Phi(f_2), which cannot cancel or saturate.
    Source: Wang et al. 2021 (NeuS), eq. 13; extrapolation and annealing as in the authors' repository. Deviation: their
    small constant in the fraction is not needed.
    """
    relu = nn.functional.relu
    steepness = anneal * relu(-cosine) + (1.0 - anneal) * relu(0.5 - 0.5 * cosine)
    half = 0.5 * steepness * width
    log_phi = nn.functional.logsigmoid
    return log_phi(sharpness * (distance + half)) - log_phi(sharpness * (distance - half))


def volsdf_density(distance: Tensor, sharpness: Tensor) -> Tensor:
    """Return the density [N] 1 / beta Psi(-f) with Psi the Laplace distribution of scale beta = 1 / `sharpness`.

    Source: Yariv et al. 2021 (VolSDF), eq. 2 and 3, with alpha = 1 / beta.
    """
    tail = 0.5 * torch.exp(-sharpness * distance.abs())
    return sharpness * torch.where(distance > 0, tail, 1.0 - tail)
