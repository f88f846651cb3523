"""A radiance field as a renderer (NeRF)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from renderers.base import Render
from renderers.fields.radiance import RadianceField
from renderers.volume.meshing import mesh_from_density
from renderers.volume.renderer import Evaluated, VolumeRenderer
from sds3d.cameras import Cameras
from sds3d.config.nerf import NerfConfig
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.skin import Silhouettes


@dataclass(frozen=True)
class LatentDecoder:
    """How pictures of latents are shown: `decode` turns [B, C, size, size] into [B, S, S, 3]."""

    decode: Callable[[Tensor], Tensor]
    size: int


class NerfRenderer(VolumeRenderer):
    """Density and colour in a box; see `VolumeRenderer` for drawing and `RadianceField` for the field.

    Colours do not depend on the direction of view, so meshes and splats made from it look the same.

    Args:
        latents: channels of the latents that points carry, if they do; see `RadianceField`.
    `decoder`, if set, shows pictures of latents (`show`); it is no part of the asset. Without one, the linear map does.
    """

    config: NerfConfig
    field: RadianceField

    decoder: LatentDecoder | None = None

    def __init__(self, config: NerfConfig, generator: torch.Generator, latents: int | None = None) -> None:
        super().__init__(config, config.occupancy.decay, generator, latents or 3)
        self.field = RadianceField(config, generator, latents)
        self.step_length = 2.0 * 3.0**0.5 * config.radius / config.sampling.count
        self._set_step(0)
        self.refresh_occupancy()

    @property
    def is_latent(self) -> bool:
        """Whether pictures hold latents of the prior instead of colours."""
        return self.field.mixing is not None and self.config.channels == "latent"

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras, see `VolumeRenderer.forward`; `Render.rgb` holds latents if `is_latent`."""
        render = super().forward(cameras, background)
        render.is_latent = self.is_latent
        return render

    def behind(self, given: Tensor, directions: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what is seen behind the object: of a plain colour, the nearest latents where pictures hold those."""
        if self.is_latent and self.field.mixing is not None:
            given = self.field.mixing.to_latents(given)
        return self.background(given, directions, generator, self.field.colours)  # type: ignore[no-any-return]

    @torch.no_grad()
    def show(self, cameras: Cameras, background: Tensor) -> Render:
        """Return pictures with colours: latents are drawn at the size the prior has them, decoded and resized."""
        render = self(cameras, background)
        if not self.is_latent or self.field.mixing is None:
            return render  # type: ignore[no-any-return]
        if self.decoder is None:
            render.rgb = self.field.mixing.to_rgb(render.rgb)
        else:
            latents = self(cameras.resized(self.decoder.size), background).rgb
            rgb = self.decoder.decode(latents.permute(0, 3, 1, 2)).permute(0, 3, 1, 2)
            size = (cameras.height, cameras.width)
            rgb = nn.functional.interpolate(rgb, size, mode="bilinear", antialias=True, align_corners=False)
            render.rgb = rgb.permute(0, 2, 3, 1)
        render.rgb, render.is_latent = render.rgb.clamp(0.0, 1.0), False
        return render  # type: ignore[no-any-return]

    def _parameters_of(self, group: str) -> list[nn.Parameter]:
        own = super()._parameters_of(group)
        learns_colours = group == "network" and self.field.mixing is not None and not self.is_latent
        return [*own, *self.field.mixing.parameters()] if learns_colours else own  # type: ignore[union-attr]

    def evaluate(self, points: Tensor, directions: Tensor, width: Tensor) -> Evaluated:
        """Return the field at the samples; see `VolumeRenderer.evaluate`."""
        if self.config.normals == "none":
            density, colours = self.field(points)
            return Evaluated(density * width, colours)
        density, colours, normals = self.field.with_normals(points)
        return Evaluated(density * width, colours, normals)

    def coarse_depths(self, points: Tensor, width: Tensor) -> Tensor:
        """Return optical depths; see `VolumeRenderer.coarse_depths`."""
        return self.density_at(points) * width

    def occupancy_at(self, points: Tensor) -> Tensor:
        """Return the optical depth of one step."""
        return self.density_at(points) * self.step_length

    @torch.no_grad()
    def density_at(self, points: Tensor) -> Tensor:
        """Return [N] densities per world unit of points [N, 3] in the box."""
        return self.field.density(points)

    @torch.no_grad()
    def color_at(self, points: Tensor) -> Tensor:
        """Return colours [N, 3] sRGB in [0, 1] of points [N, 3]."""
        colours = self.field.rgb(points)
        return colours if self.field.mixing is None else colours.clamp(0.0, 1.0)

    def to_mesh(self, resolution: int = 96, max_faces: int = 20_000, silhouettes: Silhouettes | None = None) -> Mesh:
        """Return a closed mesh with colours at its vertices; see `mesh_from_density`."""
        device = self.occupancy.values.device
        return mesh_from_density(
            self.density_at, self.color_at, self.config.radius, resolution, max_faces, device, silhouettes
        )


def nerf_renderer(config: NerfConfig, generator: torch.Generator, latents: int | None = None) -> NerfRenderer:
    """Return a fresh radiance field on the CPU; all draws come from `generator` (CPU). Load a state dict to resume."""
    return NerfRenderer(config, generator, latents)
