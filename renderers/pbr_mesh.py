"""A given mesh with a PBR material that is learnt, seen in lights that are drawn anew each step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from renderers.base import Render, Renderer, optimiser_groups
from renderers.bump import bent
from renderers.conditions import condition_maps
from renderers.fields.encodings import GridEncoding, geometric_resolutions
from renderers.fields.networks import Mlp
from renderers.gbuffer import MATERIAL, MaterialField, from_mesh
from renderers.isosurface.crossings import check_surface
from renderers.isosurface.geometry import adopt_shapes
from renderers.meshes.edges import neighbours
from renderers.openness import Openness
from renderers.surface import vertex_normals
from renderers.surface_texture import FieldTexture, Places
from sds3d.cameras import Cameras
from sds3d.config.pbr import PbrMeshConfig
from sds3d.errors import ShapeError
from sds3d.meshing.mesh import Mesh
from sds3d.shading.brdf import Shaded
from sds3d.shading.colour import srgb_from_linear, to_display
from sds3d.shading.deferred import ShadeSettings, composite, shade
from sds3d.shading.directions import latlong_directions
from sds3d.shading.environment import EnvironmentLight
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.lights import open_light
from sds3d.shading.occlusion import occluded
from sds3d.shading.prefilter import Prefiltered

START = (0.0, 0.0, 0.0, 0.0, -2.0)
"""Added before the sigmoid, so that a new material is mid grey, half rough, and hardly metal: base colour 3, roughness 1,
metalness 1. With `bump` three more channels follow, which turn the normal; they start at 0, which turns nothing."""
Lights = Sequence[Prefiltered]


class PbrMeshRenderer(Renderer):
    """A mesh [V, 3], [F, 3] and the material on it.

    Args:
        texture: from places to values in [0, 1], as many as `START`, or 3 more with `config.bump`.
        seed: of the lights and of the points that regularisers compare; both follow from it and the number of steps
            taken, so a resumed run repeats them.

    In training every view has a light of its own, drawn from `config.lights` and turned about +Z; pictures without
    gradients are lit by the first light, unturned.
    Limits: as `gbuffer.from_mesh`. Of the light, what the mesh hides is darkened by ambient occlusion: no cast shadows.
    """

    vertices: Tensor
    faces: Tensor

    def __init__(
        self, vertices: Tensor, faces: Tensor, texture: FieldTexture, config: PbrMeshConfig, *, seed: int = 0
    ) -> None:
        super().__init__()
        check_surface(faces)
        self.register_buffer("vertices", vertices.detach().float().clone())
        self.register_buffer("faces", faces.long().clone())
        self.texture, self.config, self.seed, self.steps = texture, config, seed, 0
        self.settings = ShadeSettings(mode=config.mode)
        self._lights: dict[torch.device, list[Prefiltered]] = {}
        self._kept: tuple[Tensor, Tensor, Openness | None] | None = None

    # ---- what is seen

    def material_at(self, points: Tensor) -> dict[str, Tensor]:
        """Return base colour [P, 3] (linear), roughness and metalness [P, 1] at points [P, 3] of the world.

        With `config.bump` also "bump" [P, 3] in [-1, 1], see `renderers.bump.bent`.
        """
        nothing = points.new_zeros(len(points), dtype=torch.long)
        values = self.texture(Places(points, nothing, points))
        if not len(points):  # nothing in view; keeps the gradient defined
            values = points.new_zeros(0, channels_of(self.config)) + 0.0 * next(self.texture.parameters()).sum()
        ranges = (self.config.base_colour, self.config.roughness, self.config.metallic)
        parts = values[:, : len(START)].split((3, 1, 1), dim=1)
        scaled = [low + (high - low) * part for part, (low, high) in zip(parts, ranges, strict=True)]
        found = dict(zip(MATERIAL, scaled, strict=True))
        return {**found, "bump": 2.0 * values[:, len(START) :] - 1.0} if self.config.bump else found

    def gbuffer(self, cameras: Cameras, paint: MaterialField | None = None) -> GBuffer:
        """Return what cameras see: the material (`paint` in its place, if given), and "openness" among the extras."""
        beyond, normals, openness = self._geometry()

        def material(places: Places) -> dict[str, Tensor]:
            found = dict(paint(places)) if paint else self.material_at(places.position)
            corner = self.faces.index_select(0, places.face).flatten()
            normal = (places.weight[..., None] * normals.index_select(0, corner).view(-1, 3, 3)).sum(dim=1)
            point, normal = places.position.detach(), nn.functional.normalize(normal, dim=1)
            seen = torch.ones_like(found["roughness"]) if openness is None else openness.at(point, normal)
            return {**found, "openness": seen, "point": point}

        seen = from_mesh(
            self.vertices,
            self.faces,
            material,
            cameras,
            normals=self.config.normals,
            beyond=beyond,
            backend=self.config.backend,
        )
        if "bump" not in seen.extras:
            return seen
        return replace(seen, normal=bent(seen.normal, seen.extras["bump"], self.config.bump))

    def _geometry(self) -> tuple[Tensor, Tensor, Openness | None]:
        """Return neighbours of the faces, normals of the vertices and their sky; kept, for the mesh stays."""
        if self._kept is None or self._kept[1].device != self.vertices.device:
            openness = Openness(self.vertices, self.faces, self.config.backend) if self.config.occlusion else None
            self._kept = (neighbours(self.faces), vertex_normals(self.vertices, self.faces), openness)
        return self._kept

    def openness_at(self, points: Tensor, normals: Tensor) -> Tensor:
        """Return [P, 1] in [0, 1], the share of the sky that points of the surface see; 1 where occlusion is off."""
        openness = self._geometry()[2]
        return torch.ones_like(points[:, :1]) if openness is None else openness.at(points, normals)

    # ---- light

    def lights(self) -> list[Prefiltered]:
        """Return the lights of the configuration, filtered, on the mesh's device; read when they are first asked for."""
        device = self.vertices.device
        if device not in self._lights:
            config = self.config
            opened = [exposed(open_light(name, config.light_resolution), config.exposure) for name in config.lights]
            self._lights[device] = [light.to(device).prefiltered() for light in opened]
        return self._lights[device]

    def draw_lights(self, count: int) -> list[Prefiltered]:
        """Return the lights of `count` views: drawn in training, the first one otherwise."""
        lights = self.lights()
        if not (self.training and torch.is_grad_enabled()):
            return [lights[0]] * count
        generator = self._generator(0)
        chosen = torch.randint(len(lights), (count,), generator=generator).tolist()
        angles = (2.0 * math.pi * torch.rand(count, generator=generator)).tolist()
        return [
            lights[number].rotated(angle) if self.config.turn_lights else lights[number]
            for number, angle in zip(chosen, angles, strict=True)
        ]

    def shaded(self, seen: GBuffer, lights: Lights) -> Tensor:
        """Return display-referred pictures [B, H, W, 3], each view in its light, not composited."""
        views = [self.picture(_view(seen, number), light) for number, light in enumerate(lights)]
        return torch.cat(views)

    def picture(self, seen: GBuffer, light: Prefiltered) -> Tensor:
        """Return display-referred pictures [B, H, W, 3] of a G-buffer in one light."""
        lit: Shaded = shade(seen, light, self.settings)
        if "openness" in seen.extras:
            lit = occluded(lit, seen.extras["openness"], seen.normal, seen.view, seen.roughness)
        return to_display(lit.rgb, self.config.view_transform)

    # ---- the renderer protocol

    def forward(self, cameras: Cameras, background: Tensor) -> Render:
        """Render all cameras on `background` [B, 3]; extras: `control` [B, K, H, W] if there are conditions, `gbuffer`.

        Raises: ShapeError.
        """
        if background.shape != (len(cameras), 3):
            raise ShapeError("background", f"[{len(cameras)}, 3]", tuple(background.shape))
        seen, lights = self.gbuffer(cameras), self.draw_lights(len(cameras))
        rgb = composite(self.shaded(seen, lights), seen.alpha, background)
        extras: dict[str, Any] = {"gbuffer": seen}
        if self.config.conditions:
            extras["control"] = condition_maps(
                seen, cameras, lambda white: self.shaded(white, lights), self.config.conditions
            )
        ahead = cameras.cam_to_world[:, None, None, :3, 2]
        depth = ((seen.position - cameras.cam_to_world[:, None, None, :3, 3]) * ahead).sum(dim=-1, keepdim=True)
        return Render(rgb, seen.alpha, depth * (seen.alpha > 0), seen.normal * (seen.alpha > 0), extras)

    def parameter_groups(self, learning_rates: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one optimiser group a kind of parameter; all of them need a learning rate."""
        return optimiser_groups(self.texture.groups(), PbrMeshConfig.PARAMETERS, learning_rates)

    def regularisers(self, render: Render) -> Iterator[tuple[str, Tensor]]:
        """Yield the terms of `PbrMeshConfig.REGULARISERS`, at the points that the pictures show.

        Source: zzzyuqing/DreamMat's renderer: features at p and at p moved along the tangent plane by N(0, jitter).
        Deviation: differences of the material itself; the public code weighs them with a channel that is left over.
        """
        seen: GBuffer = render.extras["gbuffer"]
        weight = (seen.alpha.detach() > 0.99).to(seen.alpha).reshape(-1, 1)
        share = weight / weight.sum().clamp_min(1.0)
        at = seen.extras["point"].detach().reshape(-1, 3)
        normal = seen.normal.detach().reshape(-1, 3)
        noise = torch.randn(at.shape, generator=self._generator(1)).to(at) * self.config.jitter
        moved = at + noise - (noise * normal).sum(dim=1, keepdim=True) * normal
        apart = {}
        for name, there in self.material_at(moved).items():
            here = (seen.extras[name] if name in seen.extras else getattr(seen, name)).reshape(there.shape)
            apart[name] = ((here - there).abs().mean(dim=1, keepdim=True) * share).sum()
        yield "base_colour_smooth", apart["base_colour"]
        rest = [term for name, term in apart.items() if name != "base_colour"]
        yield "material_smooth", torch.stack(rest).mean()

    def after_step(self, step: int, optimiser: Any, render: Render) -> dict[str, float]:
        """Count the step: the next one has other lights."""
        self.steps += 1
        return {}

    def to_mesh(self, resolution: int, max_faces: int) -> Mesh:
        """Return the mesh as it was given, all of its faces, with its base colours at the vertices."""
        with torch.no_grad():
            colours = srgb_from_linear(self.material_at(self.vertices)["base_colour"])
        return Mesh(self.vertices.cpu().numpy(), self.faces.cpu().numpy(), colours.cpu().numpy())

    def _generator(self, what: int) -> torch.Generator:
        return torch.Generator().manual_seed((self.seed * 1_000_003 + self.steps) * 2 + what)

    def get_extra_state(self) -> dict[str, int]:
        """Return what a checkpoint holds beyond parameters: what the lights follow from."""
        return {"steps": self.steps, "seed": self.seed}

    def set_extra_state(self, state: Mapping[str, int]) -> None:
        """Take over what `get_extra_state` returned."""
        self.steps, self.seed = state["steps"], state["seed"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        adopt_shapes(self, state_dict, prefix)
        self._kept = None
        super()._load_from_state_dict(state_dict, prefix, *rest)


def channels_of(config: PbrMeshConfig) -> int:
    """Return how many values a material has at a point."""
    return len(START) + (3 if config.bump else 0)


def material_texture(config: PbrMeshConfig, generator: torch.Generator) -> FieldTexture:
    """Return a new material in space: mid grey, half rough, hardly metal."""
    kept, channels = config.texture, channels_of(config)
    start = (*START, *[0.0] * (channels - len(START)))
    if kept.kind == "grid":
        texture = FieldTexture(GridEncoding((kept.resolution,), channels, generator), None, config.radius)
        with torch.no_grad():
            for table in texture.encoding.parameters():
                table.add_(table.new_tensor(start))
        return texture
    resolutions = geometric_resolutions(kept.base_resolution, kept.finest_resolution, kept.levels)
    encoding = GridEncoding(resolutions, kept.channels, generator, kept.log2_table_size)
    network = Mlp(encoding.out_channels, channels, generator, hidden=kept.hidden, layers=kept.layers, last_gain=0.1)
    with torch.no_grad():
        last = network.linears[-1].bias
        last.add_(last.new_tensor(start))  # type: ignore[operator, arg-type]
    return FieldTexture(encoding, network, config.radius)


def exposed(light: EnvironmentLight, exposure: float | None) -> EnvironmentLight:
    """Return a light scaled so that a white ball in it is as bright as `exposure` in the mean, linear; None: as it is."""
    if exposure is None:
        return light
    with torch.no_grad():
        ways = latlong_directions(16)
        share = (1.0 - ways[..., 2:].square()).clamp_min(0.0).sqrt()
        mean = float((light.prefiltered().diffuse(ways) * share).mean() / share.mean())
        return EnvironmentLight(light.cubemap() * (exposure / max(mean, 1e-6)))


def _view(seen: GBuffer, number: int) -> GBuffer:
    """Return one view of a G-buffer."""
    rows = slice(number, number + 1)
    names = ("alpha", "normal", "position", "base_colour", "roughness", "metallic", "view")
    extras = {name: picture[rows] for name, picture in seen.extras.items()}
    return replace(seen, **{name: getattr(seen, name)[rows] for name in names}, extras=extras)
