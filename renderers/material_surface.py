"""A given mesh that carries, beside baked colours, a material and how far it explains them: the mesh variant of distillation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from renderers.fields.encodings import GridEncoding, geometric_resolutions
from renderers.fields.networks import Mlp
from renderers.gbuffer import from_mesh
from renderers.isosurface.crossings import check_surface
from renderers.isosurface.geometry import adopt_shapes
from renderers.meshes.edges import neighbours, weld
from renderers.surface_texture import Places
from sds3d.cameras import Cameras
from sds3d.config.materials_surface import MaterialSurfaceConfig
from sds3d.errors import ShapeError
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.sh import basis

WIDTHS = {"base_colour": 3, "roughness": 1, "metallic": 1, "progress": 1}
"""Outputs of the material's network, in this order, before the sigmoid."""
SH_DEGREE = 3
"""Of the harmonics of the view direction that baked colours see."""
SHARPEST = 0.08
"""Smallest roughness. Source: nvdiffrec. Below it the lobe is narrower than a texel of any light that is learnt."""
POOL, COMPARED = 8192, 512
"""Points on the surface that are kept, and those of them that `variation` compares at a time."""


class MaterialSurface(nn.Module):
    """A mesh with baked colours and materials that are functions of the point.

    Args:
        vertices: [V, 3] world frame. faces: [F, 3]. normals: [V, 3] unit.
        config: sizes of the fields. radius: half the side of their box, world units; farther points take its border.
        start: value in (0, 1) at which each of `WIDTHS` starts.
        generator: CPU generator of the initial weights.

    Two hash grids, each with a small network: one for material and progress, one for baked colours, which also sees the
    direction of view; so baked colours may learn more slowly than the material, as the method asks.
    Source: Ye et al. 2024 on a mesh; hash-grid materials as in nvdiffrec. Limits: the surface itself is not trained.
    """

    vertices: Tensor
    faces: Tensor
    normals: Tensor

    def __init__(
        self,
        vertices: Tensor,
        faces: Tensor,
        normals: Tensor,
        config: MaterialSurfaceConfig,
        radius: float,
        start: Mapping[str, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        check_surface(faces)
        if normals.shape != vertices.shape:
            raise ShapeError("normals", str(list(vertices.shape)), tuple(normals.shape))
        self.register_buffer("vertices", vertices.detach().float().clone())
        self.register_buffer("faces", faces.long().clone())
        self.register_buffer("normals", normals.detach().float().clone())
        self.config, self.radius = config, radius
        resolutions = geometric_resolutions(config.base_resolution, config.finest_resolution, config.levels)
        sizes: dict[str, Any] = {"hidden": config.hidden, "layers": config.layers, "last_gain": 0.1}
        table = (config.channels, generator, config.log2_table_size)
        self.encoding = GridEncoding(resolutions, *table)
        self.network = Mlp(self.encoding.out_channels, sum(WIDTHS.values()), generator, **sizes)
        self.raw_encoding = GridEncoding(resolutions, *table)
        seen = self.raw_encoding.out_channels + (SH_DEGREE + 1) ** 2
        self.raw_network = Mlp(seen, 3, generator, **sizes)
        for name, value in start.items():
            self._bias(name, value)
        self._beyond: Tensor | None = None
        self._pool: Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the mesh lies."""
        return self.vertices.device

    @property
    def flatness(self) -> Tensor:
        """0: triangles are flat."""
        return self.vertices.new_zeros(())

    @property
    def mean_progress(self) -> Tensor:
        """Mean progress at the vertices, in (0, 1)."""
        return self.material_at(self.vertices)["progress"].mean()

    def material_at(self, points: Tensor) -> dict[str, Tensor]:
        """Return the values of `WIDTHS` [P, C] in (0, 1) at points [P, 3] of the world."""
        values = self.network(self.encoding(points / self.radius)).sigmoid()
        found = dict(zip(WIDTHS, values.split(list(WIDTHS.values()), dim=1), strict=True))
        return {**found, "roughness": SHARPEST + (1.0 - SHARPEST) * found["roughness"]}

    def raw_at(self, points: Tensor, view: Tensor) -> Tensor:
        """Return the baked colours [P, 3], display-referred in (0, 1), of points [P, 3] seen from unit directions [P, 3]."""
        seen = torch.cat([self.raw_encoding(points / self.radius), basis(view, SH_DEGREE)], dim=1)
        return self.raw_network(seen).sigmoid()

    def gbuffer(self, cameras: Cameras, metallic: float | None = None) -> GBuffer:
        """Return what the cameras see, un-premultiplied; extras: "raw" [B, H, W, 3], "progress" [B, H, W, 1].

        metallic: stands in for all metalness, if given.
        """
        return joined([self._view(cameras[row : row + 1], metallic) for row in range(len(cameras))])

    def _view(self, camera: Cameras, metallic: float | None) -> GBuffer:
        if self._beyond is None or self._beyond.device != self.device:
            self._beyond = neighbours(weld(self.vertices, self.faces)[1])  # hard edges have vertices twice
        centre = camera.cam_to_world[0, :3, 3]

        def material(places: Places) -> dict[str, Tensor]:
            points = places.position.detach()
            found = self.material_at(points)
            if metallic is not None:
                found["metallic"] = torch.full_like(found["metallic"], metallic)
            return {**found, "raw": self.raw_at(points, nn.functional.normalize(centre - points, dim=1))}

        return from_mesh(
            self.vertices,
            self.faces,
            material,
            camera,
            normals=self.normals,
            beyond=self._beyond,
            backend=self.config.backend,
        )

    @torch.no_grad()
    def fill_(self, name: str, value: float | str) -> None:
        """Set one of `WIDTHS` everywhere to `value` in (0, 1), or to what another one is, by its name."""
        rows, (weight, bias) = self._rows(name), self._last()
        if isinstance(value, str):
            weight[rows], bias[rows] = weight[self._rows(value)].clone(), bias[self._rows(value)].clone()
            return
        weight[rows] = 0.0
        self._bias(name, value)

    @torch.no_grad()
    def _bias(self, name: str, value: float) -> None:
        value = max((value - SHARPEST) / (1.0 - SHARPEST), 1e-3) if name == "roughness" else value
        self._last()[1][self._rows(name)] = math.log(value / (1.0 - value))

    def _last(self) -> tuple[Tensor, Tensor]:
        """Return weights [6, C] and biases [6] of the material's last layer."""
        last: Any = self.network.linears[-1]
        return last.weight, last.bias

    def _rows(self, name: str) -> slice:
        names = list(WIDTHS)
        first = sum(WIDTHS[before] for before in names[: names.index(name)])
        return slice(first, first + WIDTHS[name])

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter, with rate 0 until a stage says otherwise."""
        parts = {"field": (self.encoding, self.network), "raw_field": (self.raw_encoding, self.raw_network)}
        return [
            {"params": [value for part in both for value in part.parameters()], "lr": 0.0, "name": name}
            for name, both in parts.items()
        ]

    def variation(self, generator: torch.Generator, progress: float | None = None) -> Tensor:
        """Return the mean difference of the values of `WIDTHS` at points `config.jitter` apart, a scalar.

        progress: stands in for all progress, if given.
        Source: nvdiffrec's |k(x) - k(x + e)|, e normal in space. Without it what no picture shows between two pixels is noise.
        Deviation: differences of base colours count times the progress there, as pictures do. In full they would make one
        colour of all that is not explained yet, which could then never be. Those of roughness count in full: without them it
        falls to its lower bound in stage specular, where all is metal.
        """
        if self._pool is None or self._pool.device != self.device:
            self._pool = self.scatter(POOL, torch.Generator().manual_seed(0))[0]
        rows = torch.randint(POOL, (COMPARED,), generator=generator).to(self.device)
        step = self.config.jitter * torch.randn(COMPARED, 3, generator=generator).to(self.device)
        here = self._pool.index_select(0, rows)
        found = self.material_at(torch.cat([here, here + step]))
        apart = {name: (value[:COMPARED] - value[COMPARED:]).abs() for name, value in found.items()}
        share = found["progress"][:COMPARED].detach()
        if progress is not None:
            share = torch.full_like(share, progress)
        apart["base_colour"] = share * apart["base_colour"]
        return torch.cat(list(apart.values()), dim=1).mean()

    def scatter(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return `count` points [N, 3] spread evenly over the surface and their normals [N, 3]."""
        corners = self.vertices.cpu()[self.faces.cpu()]
        across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0], dim=1)
        chosen = torch.multinomial(
            torch.linalg.vector_norm(across, dim=1), count, replacement=True, generator=generator
        )
        weight = torch.rand(count, 3, generator=generator).clamp_min(1e-6).log()
        weight = weight / weight.sum(dim=1, keepdim=True)
        points = (weight[..., None] * corners[chosen]).sum(dim=1)
        return points.to(self.device), nn.functional.normalize(across[chosen], dim=1).to(self.device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        adopt_shapes(self, state_dict, prefix)
        self._beyond = self._pool = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def joined(parts: list[GBuffer]) -> GBuffer:
    """Return G-buffers of single views as one of all."""
    names = [entry.name for entry in fields(GBuffer) if entry.name != "extras"]
    planes = {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
    extras = {name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras}
    return GBuffer(**planes, extras=extras)
