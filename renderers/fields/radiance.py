"""A radiance field: density and colour at every point, without shading (the colour is what a camera sees)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from renderers.fields.build import make_encoding
from renderers.fields.networks import Mlp
from sds3d.config.nerf import NerfConfig

LARGEST_EXPONENT = 15.0
"""exp of more is cut off: that density is opaque within any step, and more would overflow. Source: torch-ngp."""
TAPS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
"""Corners of a tetrahedron: four values give a gradient where central differences need six."""


class RadianceField(nn.Module):
    """Density [N] per world unit and colour [N, 3] in (0, 1) of points [N, 3] in the box [-radius, radius]^3.

    One hidden network gives both. Before the activation the density gets a blob that fades with the distance r from the
    origin, so that a run starts from a round cloud: "magic3d" scale (1 - r / radius), "dreamfusion"
    scale exp(-r^2 / (2 radius^2)).
    Source: Lin et al. 2023 (Magic3D), section 4.1; Poole et al. 2022 (DreamFusion), section 3.1 and appendix A.
    """

    def __init__(self, config: NerfConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.encoding = make_encoding(config.encoding, generator)
        self.network = Mlp(
            self.encoding.out_channels,
            4,
            generator,
            hidden=config.hidden,
            layers=config.layers,
            activation="softplus" if config.normals == "analytic" else "relu",
        )

    def density(self, points: Tensor) -> Tensor:
        """Return [N] densities >= 0 per world unit."""
        raw = self.network(self.encoding(points / self.config.radius))[:, 0]
        return self._activate(raw + self._blob(points))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return densities [N] and colours [N, 3]."""
        raw = self.network(self.encoding(points / self.config.radius))
        return self._activate(raw[:, 0] + self._blob(points)), raw[:, 1:].sigmoid()

    def with_normals(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return densities, colours and unit normals [N, 3]: where density falls fastest.

        Normals are those of the density before its activation, which has the same level sets and better numbers.
        """
        if self.config.normals == "finite":
            density, colours = self(points)
            return density, colours, nn.functional.normalize(-self._differences(points), dim=-1)
        scale = self.config.radius
        features, jacobian = self.encoding.with_jacobian(points / scale)
        raw, gradient = self.network.with_gradient(features, jacobian)
        gradient = gradient / scale + self._blob_gradient(points)
        density = self._activate(raw[:, 0] + self._blob(points))
        return density, raw[:, 1:].sigmoid(), nn.functional.normalize(-gradient, dim=-1)

    def _differences(self, points: Tensor) -> Tensor:
        """Return the gradient [N, 3] of the raw density from four points around each."""
        taps = points.new_tensor(TAPS)
        around = (points[:, None] + self.config.normal_step * taps).reshape(-1, 3)
        raw = self.network(self.encoding(around / self.config.radius))[:, 0] + self._blob(around)
        return torch.einsum("nk,kd->nd", raw.view(-1, 4), taps) / (4.0 * self.config.normal_step)

    def _activate(self, raw: Tensor) -> Tensor:
        if self.config.density_activation == "exp":
            return raw.clamp(max=LARGEST_EXPONENT).exp()
        return nn.functional.softplus(raw)

    def _blob(self, points: Tensor) -> Tensor:
        """Return [N], what is added to the raw density."""
        scale, radius, kind = self.config.blob_scale, self.config.blob_radius, self.config.blob
        if kind == "none":
            return torch.full_like(points[:, 0], self.config.density_bias)
        square = points.square().sum(dim=-1)
        if kind == "magic3d":
            return scale * (1.0 - (square + 1e-12).sqrt() / radius) + self.config.density_bias
        return scale * torch.exp(-0.5 * square / radius**2) + self.config.density_bias

    def _blob_gradient(self, points: Tensor) -> Tensor:
        """Return [N, 3], the derivative of `_blob`."""
        scale, radius, kind = self.config.blob_scale, self.config.blob_radius, self.config.blob
        if kind == "none":
            return torch.zeros_like(points)
        square = points.square().sum(dim=-1, keepdim=True)
        if kind == "magic3d":
            return -scale / radius * points / (square + 1e-12).sqrt()
        return -scale / radius**2 * torch.exp(-0.5 * square / radius**2) * points
