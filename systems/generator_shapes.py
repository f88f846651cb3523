"""A grid of distance and colour as a renderer, for the judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from renderers.base import Render, Renderer
from renderers.triplane import render_field
from renderers.triplane_grid import GridField
from sds3d.cameras import Cameras
from sds3d.config.generator import VolumeConfig
from sds3d.errors import ShapeError
from sds3d.meshing.mesh import Mesh


class GridRenderer(Renderer):
    """One finished object as a grid. It has no parameters that are trained.

    Args: values: [1, 4, z, y, x] of `GridField` with `start_radius` 0; see `sds3d.generators.shape_grids.field_values`.
    """

    def __init__(self, values: Tensor, config: VolumeConfig | None = None, radius: float = 1.0) -> None:
        super().__init__()
        if values.ndim != 5 or values.shape[:2] != (1, 4):
            raise ShapeError("values", "[1, 4, z, y, x] (one object)", tuple(values.shape))
        self.values = torch.nn.Parameter(values.detach(), requires_grad=False)
        self.config = config or VolumeConfig(samples=64, sharpness=40.0, field="grid", keep_surface=False)
        self.radius = radius

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Draw the object from all cameras; `background` is [B, 3]."""
        field = GridField(self.values, self.radius, start_radius=0.0)
        return render_field(field, self.radius, cameras, background, self.config)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return nothing: a finished object is not trained."""
        return []

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield nothing."""
        return iter(())

    def to_mesh(self, resolution: int = 96, max_faces: int = 20_000) -> Mesh:
        """Return a closed mesh with colours at its vertices; see `mesh_from_distance`."""
        from renderers.volume.meshing import mesh_from_distance

        field = GridField(self.values, self.radius, start_radius=0.0)

        def distance(points: Tensor) -> Tensor:
            return field.sdf(points[None])[0]

        def colour(points: Tensor) -> Tensor:
            return field.colour(points[None])[0]

        return mesh_from_distance(distance, colour, self.radius, resolution, max_faces, self.values.device)
