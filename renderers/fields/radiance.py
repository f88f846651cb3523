"""A radiance field: density and colour at every point, without shading (the colour is what a camera sees)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from renderers.fields.build import make_encoding
from renderers.fields.encodings import through
from renderers.fields.latents import LatentMixing
from renderers.fields.networks import Mlp
from sds3d.config.nerf import NerfConfig

LARGEST_EXPONENT = 15.0
"""exp of more is cut off: that density is opaque within any step, and more would overflow. Source: torch-ngp."""
TAPS = ((1.0, 1.0, 1.0), (1.0, -1.0, -1.0), (-1.0, 1.0, -1.0), (-1.0, -1.0, 1.0))
"""Corners of a tetrahedron: four values give a gradient where central differences need six."""


class RadianceField(nn.Module):
    """Density [N] per world unit and colour [N, 3] in (0, 1) of points [N, 3] in the box [-radius, radius]^3.

    With `latents` = C points carry C numbers without bounds, the latents of a prior: while `config.channels` is "latent"
    they are what is seen, afterwards a linear layer, trained along, turns them into colours.

    One hidden network gives both. Before the activation the density gets a blob that fades with the distance r from the
    origin, so that a run starts from a round cloud: "magic3d" scale (1 - r / radius), "dreamfusion"
    scale exp(-r^2 / (2 radius^2)).
    Source: Lin et al. 2023 (Magic3D), section 4.1; Poole et al. 2022 (DreamFusion), section 3.1 and appendix A;
    Metzer et al. 2023 (Latent-NeRF), section 3 and "RGB refinement".
    """

    def __init__(self, config: NerfConfig, generator: torch.Generator, latents: int | None = None) -> None:
        super().__init__()
        self.config, self.latents = config, latents
        self.encoding = make_encoding(config.encoding, generator)
        self.network = Mlp(
            self.encoding.out_channels,
            1 + (latents or 3),
            generator,
            hidden=config.hidden,
            layers=config.layers,
            activation="softplus" if config.normals == "analytic" else "relu",
        )
        self.mixing = None if latents is None else LatentMixing(latents)

    def density(self, points: Tensor) -> Tensor:
        """Return [N] densities >= 0 per world unit."""
        raw = self.network(self.encoding(points / self.config.radius))[:, 0]
        return self._activate(raw + self._blob(points))

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return densities [N] and colours [N, 3]."""
        raw = self.network(self.encoding(points / self.config.radius))
        return self._activate(raw[:, 0] + self._blob(points)), self.colours(raw[:, 1:])

    def colours(self, raw: Tensor) -> Tensor:
        """Return what pictures are made of, given the network's numbers: colours [..., 3], or latents [..., C]."""
        if self.mixing is None:
            return raw.sigmoid()
        return raw if self.config.channels == "latent" else self.mixing.to_rgb(raw)

    def rgb(self, points: Tensor) -> Tensor:
        """Return colours [N, 3] of points [N, 3], also of a field of latents; then they may leave [0, 1] a little."""
        raw = self.network(self.encoding(points / self.config.radius))[:, 1:]
        return raw.sigmoid() if self.mixing is None else self.mixing.to_rgb(raw)

    def with_normals(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return densities, colours and unit normals [N, 3]: where density falls fastest.

        Normals are those of the density before its activation, which has the same level sets and better numbers.
        """
        if self.config.normals == "finite":
            density, colours = self(points)
            return density, colours, nn.functional.normalize(-self._differences(points), dim=-1)
        scale = self.config.radius
        features, jacobian = self.encoding.with_jacobian(points / scale)
        raw, by_features = self.network.with_gradient(features)
        gradient = through(by_features, jacobian) / scale + self._blob_gradient(points)
        density = self._activate(raw[:, 0] + self._blob(points))
        return density, self.colours(raw[:, 1:]), nn.functional.normalize(-gradient, dim=-1)

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
