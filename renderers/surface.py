"""A triangle mesh as a renderer: extracts or holds the triangles, colours, lights and draws them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from renderers import surface_regularisers as terms
from renderers import surface_shading as shading
from renderers.base import Render, Renderer, optimiser_groups
from renderers.isosurface.geometry import Geometry, Surface
from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.edges import neighbours
from renderers.meshes.fragments import Fragments
from renderers.meshes.rasterise import rasterise
from renderers.surface_texture import Places, Texture
from sds3d.cameras import Cameras
from sds3d.config.surface import ShadingConfig, SurfaceConfig
from sds3d.errors import ShapeError
from sds3d.meshing.mesh import Mesh


class SurfaceRenderer(Renderer):
    """One mesh.

    Args:
        geometry: where the triangles come from. texture: where the colours come from.
        lighting: how they are lit; light kind "point" draws from a generator that follows from `seed` and the number of
            steps taken, so a resumed run repeats it, and only in training (pictures without gradients are lit as
            "lambert").
        backend: rasteriser, see `renderers.meshes.rasterise`.

    Limits: one surface a pixel, nothing is transparent; the gradient of an outline is that of `antialias`. The number of
    triangles of a grid depends on values, so a card waits for it once a step.
    """

    def __init__(
        self,
        geometry: Geometry,
        texture: Texture,
        lighting: ShadingConfig | None = None,
        *,
        backend: str = "auto",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.geometry, self.texture = geometry, texture
        self.lighting, self.backend, self.seed = lighting or ShadingConfig(), backend, seed
        self.steps = 0
        self._beyond: tuple[Tensor, int, Tensor] | None = None

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras on `background` [B, 3]; extras: `surface` and its `normals` [V, 3].

        Raises: ShapeError; ConfigError if there is no surface.
        """
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        surface = self.geometry()
        normals = vertex_normals(surface.vertices, surface.faces)
        clip = clip_from(cameras, surface.vertices)
        fragments = rasterise(clip.contiguous(), surface.faces, cameras.height, cameras.width, self.backend)
        pixel, places, normal, depth = self._visible(surface, normals, clip, fragments)
        view = pixel // (cameras.height * cameras.width)
        points = shading.Points(self.texture(places), normal, places.position, view)
        colour = self._light(points, cameras)
        shape = (len(cameras), cameras.height, cameras.width)
        behind = background[:, None].expand(-1, shape[1] * shape[2], -1).reshape(-1, 3)
        layers = torch.cat([behind, torch.zeros_like(behind[:, :1])], dim=1)
        layers = layers.index_copy(0, pixel, torch.cat([colour, torch.ones_like(depth)], dim=1))
        soft = antialias(layers.view(*shape, 4), fragments, clip, surface.faces, self._neighbours(surface))
        plain = torch.cat([torch.zeros_like(behind), torch.zeros_like(behind[:, :1])], dim=1)
        plain = plain.index_copy(0, pixel, torch.cat([normal, depth], dim=1)).view(*shape, 4)
        extras = {"surface": surface, "normals": normals}
        return Render(soft[..., :3], soft[..., 3:], plain[..., 3:], plain[..., :3], extras)

    def _visible(
        self, surface: Surface, normals: Tensor, clip: Tensor, fragments: Fragments
    ) -> tuple[Tensor, Places, Tensor, Tensor]:
        """Return the covered pixels [P], and there: places, unit normals [P, 3] and camera z [P, 1]."""
        pixel = (fragments.face.flatten() >= 0).nonzero()[:, 0]
        face = fragments.face.flatten().index_select(0, pixel)
        weight = fragments.barycentric.reshape(-1, 3).index_select(0, pixel)
        corner = surface.faces.index_select(0, face)
        view = pixel // fragments.face[0].numel()
        row = (corner + view[:, None] * surface.vertices.shape[0]).flatten()
        distance = (weight * clip[..., 3].flatten().index_select(0, row).view(-1, 3)).sum(dim=1, keepdim=True)
        values = torch.cat([surface.vertices, normals], dim=1).index_select(0, corner.flatten()).view(-1, 3, 6)
        mean = (weight[..., None] * values).sum(dim=1)
        normal = mean[:, 3:]
        if self.lighting.normals == "flat":
            normal = face_normals(surface.vertices, surface.faces).index_select(0, face)
        return pixel, Places(mean[:, :3], face, weight), nn.functional.normalize(normal, dim=1), distance

    def _light(self, points: shading.Points, cameras: Cameras) -> Tensor:
        """Return the colours [P, 3] of points in the light of this step."""
        kind = self.lighting.kind
        if kind == "normal":
            return shading.normal_picture(points, cameras, self.lighting.normal_frame)
        if kind == "none":
            return points.albedo
        if kind == "point" and self.training and torch.is_grad_enabled():
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.steps)
            return shading.by_lamp(points, shading.draw_lamp(self.lighting, cameras, generator), self.lighting)
        return shading.lambert(points, cameras)

    def _neighbours(self, surface: Surface) -> Tensor:
        """Return the neighbours of the faces; kept as long as the faces stay."""
        faces = surface.faces
        if not self.geometry.is_fixed:
            return neighbours(faces)
        if self._beyond is None or self._beyond[0] is not faces or self._beyond[1] != faces._version:
            self._beyond = (faces, faces._version, neighbours(faces))
        return self._beyond[2]

    def _groups(self) -> dict[str, list[nn.Parameter]]:
        shape = {name: self.geometry.parameters_of(name) for name in self.geometry.groups}
        return shape if self.lighting.kind == "normal" else shape | self.texture.groups()

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter that this renderer has; all of them need a learning rate.

        Colours are left out where pictures do not show them (light kind "normal").
        """
        return optimiser_groups(self._groups(), SurfaceConfig.PARAMETERS, learning_rates)

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms of `SurfaceConfig.REGULARISERS` that this geometry has (each computed when it is reached)."""
        surface, normals = render.extras["surface"], render.extras["normals"]
        yield "normal_consistency", terms.normal_consistency(normals, surface.faces)
        yield "laplacian", terms.laplacian(surface.vertices, surface.faces)
        yield "edge_length", terms.edge_length(surface.vertices, surface.faces)
        yield "opacity", render.alpha.mean()
        if surface.sdf is not None:
            yield "sdf_entropy", terms.sdf_entropy(surface.sdf)
        if surface.deviation is not None:
            yield "deviation", terms.deviation(surface.deviation)

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Count the step, and bring back a surface that has vanished; returns {"surface_restarted": 1.0} then."""
        self.steps += 1
        return {"surface_restarted": 1.0} if self.geometry.repair() else {}

    def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
        """Return the asset as a mesh with colours at its vertices; the grid is the asset's own, not `resolution`."""
        from renderers.surface_conversion import to_mesh

        return to_mesh(self, max_faces)

    def get_extra_state(self) -> dict[str, int]:
        """Return what a checkpoint holds beyond parameters: what random lamps follow from."""
        return {"steps": self.steps, "seed": self.seed}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take over what `get_extra_state` returned."""
        self.steps, self.seed = state["steps"], state["seed"]


def face_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return [F, 3], normals of the triangles, as long as twice their area."""
    a, b, c = vertices.index_select(0, faces.flatten()).view(-1, 3, 3).unbind(dim=1)
    return torch.linalg.cross(b - a, c - a)


def vertex_normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Return [V, 3] unit normals: the mean of the faces at each vertex by their area (0 at unused vertices)."""
    normal = face_normals(vertices, faces)
    total = torch.zeros_like(vertices)
    for corner in range(3):
        total = total.index_add(0, faces[:, corner], normal)
    return nn.functional.normalize(total, dim=1)
