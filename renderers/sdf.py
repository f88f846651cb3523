"""A signed distance field as a renderer (NeuS, VolSDF)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from renderers.fields.sdf import REACH, SdfField, neus_depth, volsdf_density
from renderers.volume import regularisers
from renderers.volume.meshing import mesh_from_distance
from renderers.volume.renderer import Evaluated, VolumeRenderer
from sds3d.config.nerf import SdfConfig
from sds3d.meshing.mesh import Mesh


class SdfRenderer(VolumeRenderer):
    """Signed distance and colour in a box; see `VolumeRenderer` for drawing and `SdfField` for the field.

    The grid of empty space holds 1 in cells that a band around the surface may touch, whose width follows the sharpness.
    """

    config: SdfConfig
    field: SdfField
    groups = ("encoding", "network", "background", "sharpness")
    centred = True

    def __init__(self, config: SdfConfig, generator: torch.Generator) -> None:
        super().__init__(config, 0.0, generator)  # distances are known for whole cells: nothing to remember
        self.field = SdfField(config, generator)
        self._set_step(0)
        self.refresh_occupancy(1)

    @property
    def anneal(self) -> float:
        """0 at the start, 1 after `anneal_steps`."""
        steps = self.config.anneal_steps
        return 1.0 if steps == 0 else min(1.0, self.step / steps)

    def evaluate(self, points: Tensor, directions: Tensor, width: Tensor) -> Evaluated:
        """Return the field at the samples; see `VolumeRenderer.evaluate`."""
        distance, colours, gradient = self.field.with_gradient(points)
        if self.config.rule == "neus":
            cosine = (gradient * directions).sum(dim=-1)
            depths = neus_depth(distance, cosine, width, self.field.sharpness, self.anneal)
        else:
            depths = volsdf_density(distance, self.field.sharpness) * width
        return Evaluated(depths, colours, nn.functional.normalize(gradient, dim=-1), regularisers.eikonal(gradient))

    @torch.no_grad()
    def coarse_depths(self, points: Tensor, width: Tensor) -> Tensor:
        """Return optical depths as if every surface were met head on; see `VolumeRenderer.coarse_depths`."""
        distance = self.field.distance(points)
        if self.config.rule == "neus":
            return neus_depth(distance, torch.full_like(distance, -1.0), width, self.field.sharpness)
        return volsdf_density(distance, self.field.sharpness) * width

    @torch.no_grad()
    def occupancy_at(self, points: Tensor) -> Tensor:
        """Return 1 where the cell around a centre may touch the band around the surface, else 0."""
        half_diagonal = 0.5 * 3.0**0.5 * self.occupancy.cell
        near = self.field.distance(points).abs() < REACH / self.field.sharpness + half_diagonal
        return near.to(points.dtype)

    @torch.no_grad()
    def sdf_at(self, points: Tensor) -> Tensor:
        """Return [N] signed distances, negative inside, of points [N, 3] in the box."""
        return self.field.distance(points)

    @torch.no_grad()
    def color_at(self, points: Tensor) -> Tensor:
        """Return colours [N, 3] sRGB in [0, 1] of points [N, 3]."""
        return self.field(points)[1]

    def to_mesh(self, resolution: int = 96, max_faces: int = 20_000) -> Mesh:
        """Return a closed mesh with colours at its vertices; see `mesh_from_distance`."""
        device = self.occupancy.values.device
        return mesh_from_distance(self.sdf_at, self.color_at, self.config.radius, resolution, max_faces, device)

    def _parameters_of(self, group: str) -> list[nn.Parameter]:
        return [self.field.log_sharpness] if group == "sharpness" else super()._parameters_of(group)


def sdf_renderer(config: SdfConfig, generator: torch.Generator) -> SdfRenderer:
    """Return a fresh signed distance field on the CPU; all draws come from `generator` (CPU)."""
    return SdfRenderer(config, generator)
