"""A radiance field as a renderer (NeRF)."""

from __future__ import annotations

import torch
from torch import Tensor

from renderers.fields.radiance import RadianceField
from renderers.volume.meshing import mesh_from_density
from renderers.volume.renderer import Evaluated, VolumeRenderer
from sds3d.config.nerf import NerfConfig
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.skin import Silhouettes


class NerfRenderer(VolumeRenderer):
    """Density and colour in a box; see `VolumeRenderer` for drawing and `RadianceField` for the field.

    Colours do not depend on the direction of view, so meshes and splats made from it look the same.
    """

    config: NerfConfig
    field: RadianceField

    def __init__(self, config: NerfConfig, generator: torch.Generator) -> None:
        super().__init__(config, config.occupancy.decay, generator)
        self.field = RadianceField(config, generator)
        self.step_length = 2.0 * 3.0**0.5 * config.radius / config.sampling.count
        self._set_step(0)
        self.refresh_occupancy()

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
        return self.field(points)[1]

    def to_mesh(self, resolution: int = 96, max_faces: int = 20_000, silhouettes: Silhouettes | None = None) -> Mesh:
        """Return a closed mesh with colours at its vertices; see `mesh_from_density`."""
        device = self.occupancy.values.device
        return mesh_from_density(
            self.density_at, self.color_at, self.config.radius, resolution, max_faces, device, silhouettes
        )


def nerf_renderer(config: NerfConfig, generator: torch.Generator) -> NerfRenderer:
    """Return a fresh radiance field on the CPU; all draws come from `generator` (CPU). Load a state dict to resume."""
    return NerfRenderer(config, generator)
