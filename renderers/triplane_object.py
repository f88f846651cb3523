"""One finished object of a generator, for everything that wants a `Renderer`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from renderers.base import Render, Renderer
from renderers.triplane import Field, field_of, render_volume
from renderers.triplane_grid import GridField
from sds3d.cameras import Cameras
from sds3d.config.generator_views import VolumeConfig
from sds3d.errors import AssetError, ShapeError
from sds3d.generators.base import Planes
from sds3d.generators.heads import FieldHeads
from sds3d.meshing.mesh import Mesh

SHOWN_RESOLUTION, SHOWN_FACES = 96, 100_000
"""Cells along an edge, and most triangles, of the surface that pictures show."""


class TriplaneRenderer(Renderer):
    """One object: its planes and the networks that read them. It is shown and exported; nothing of it is trained.

    Args:
        assets: triplanes of one object.
        config: how it is drawn.
    Raises: ShapeError for several objects.
    """

    geometry: Tensor
    texture: Tensor

    def __init__(self, assets: Planes, config: VolumeConfig) -> None:
        super().__init__()
        if len(assets) != 1:
            raise ShapeError("assets", "[1] (one object)", (len(assets),))
        self.config, self.heads = (
            config,
            copy.deepcopy(assets.heads).requires_grad_(False),
        )  # the generator keeps its own
        self._shown: tuple[Field | GridField, Tensor, Tensor, Tensor] | None = None
        self.sizes = {"radius": assets.radius, "start_radius": assets.start_radius, "reach": assets.reach}
        self.register_buffer("geometry", assets.geometry.detach())
        self.register_buffer("texture", assets.texture.detach())

    @property
    def assets(self) -> Planes:
        """The object as triplanes."""
        return Planes(self.geometry, self.texture, self.heads, **self.sizes)

    def get_extra_state(self) -> dict[str, Any]:
        """Return what a checkpoint holds beside tensors."""
        return {"config": self.config.model_dump(mode="json"), **self.sizes}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned."""
        self.config = VolumeConfig.model_validate(state["config"])
        self.sizes = {name: state[name] for name in self.sizes}

    @classmethod
    def from_state(cls, saved: dict[str, Any]) -> TriplaneRenderer:
        """Return the object of a `state_dict`."""
        hidden, channels = saved["heads.distance_head.0.weight"].shape
        heads = FieldHeads(channels, hidden, None)
        planes = Planes(saved["geometry"], saved["texture"], heads)
        renderer = cls(planes, VolumeConfig.model_validate(saved["_extra_state"]["config"]))
        renderer.load_state_dict(saved)
        return renderer

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Draw the object from all cameras; `background` is [B, 3]."""
        return render_volume(self.assets, cameras, background, self.config)

    def show(self, cameras: Cameras, background: Tensor) -> Render:
        """Draw the surface, sharp: the volume's rim is as soft as it had to be for training, and it takes longer."""
        from renderers.triplane_mesh import draw_surface

        shown = self._surface()
        if shown is None:
            return self(cameras, background)  # type: ignore[no-any-return]
        field, vertices, faces, beyond = shown
        return draw_surface(field, vertices, faces, cameras, background, beyond=beyond)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return nothing: a finished object is not trained."""
        return []

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield nothing."""
        return iter(())

    def to_mesh(self, resolution: int = 96, max_faces: int = 20_000) -> Mesh:
        """Return a closed mesh with colours at its vertices; see `mesh_from_distance`."""
        from renderers.volume.meshing import mesh_from_distance

        field = self._field()

        @torch.no_grad()
        def distance(points: Tensor) -> Tensor:
            return field.sdf(points[None])[0]

        radius, device = self.sizes["radius"], self.geometry.device
        return mesh_from_distance(distance, self.color_at, radius, resolution, max_faces, device)

    @torch.no_grad()
    def color_at(self, points: Tensor) -> Tensor:
        """Return sRGB colours [N, 3] in [0, 1] of points [N, 3]."""
        return self._field().colour(points[None])[0].clamp(0.0, 1.0)

    def _surface(self) -> tuple[Field | GridField, Tensor, Tensor, Tensor] | None:
        """Return field, vertices, faces and their neighbours of the surface that is shown, None if none; found once."""
        from renderers.meshes.edges import neighbours

        if self._shown is None:
            try:
                mesh = self.to_mesh(SHOWN_RESOLUTION, SHOWN_FACES)
            except AssetError:
                return None
            device = self.geometry.device
            vertices, faces = torch.as_tensor(mesh.vertices).float(), torch.as_tensor(mesh.faces).long()
            self._shown = self._field(), vertices.to(device), faces.to(device), neighbours(faces).to(device)
        return self._shown

    def _field(self) -> Field | GridField:
        return field_of(self.assets, self.config)
