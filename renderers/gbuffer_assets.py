"""Any asset as a G-buffer: what it has no material for is guessed, and said."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers.base import Renderer
from renderers.gaussians.renderer import GaussianRenderer
from renderers.gbuffer import from_gaussians, from_mesh
from renderers.meshes.edges import neighbours
from renderers.surface import SurfaceRenderer
from renderers.surface_texture import Places
from sds3d.cameras import Cameras
from sds3d.errors import ConfigError
from sds3d.shading.colour import linear_from_srgb, to_display
from sds3d.shading.deferred import ShadeSettings, composite, shade
from sds3d.shading.gbuffer import GBuffer
from sds3d.shading.prefilter import Prefiltered

View = Callable[[Cameras], GBuffer]
"""What cameras see of an asset."""
Shader = Callable[[GBuffer, Prefiltered], Tensor]
"""The picture [B, H, W, 3] of a G-buffer in a light, display-referred, not composited."""
MESH_RESOLUTION, MESH_FACES = 128, 100_000
"""Of the mesh that stands in for an asset that has no surface of its own (NeRF)."""


@dataclass(frozen=True, kw_only=True)
class Guess:
    """The material of an asset that has none: its colours, taken as base colours, and these.

    Args:
        roughness, metallic: in [0, 1].

    Raises: ConfigError for other values.
    """

    roughness: float = 0.6
    metallic: float = 0.0

    def __post_init__(self) -> None:
        for name in ("roughness", "metallic"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(
                    f"{name} is {getattr(self, name):g}, but 0 to 1 is allowed. Give such a number.", name
                )

    def of(self, srgb: Tensor) -> dict[str, Tensor]:
        """Return the attributes of colours [..., 3]."""
        one = torch.ones_like(srgb[..., :1])
        base = linear_from_srgb(srgb.clamp(0.0, 1.0))
        return {"base_colour": base, "roughness": self.roughness * one, "metallic": self.metallic * one}


def view_of(renderer: Renderer, guess: Guess | None = None) -> View:
    """Return what cameras see of an asset whose materials are guessed from its colours.

    Limits: light that was learnt as colour stays in the base colour, so a relit picture is shaded twice there.
        radiance_to_pbr takes it out. Assets without a surface of their own are seen as a mesh.
    """
    guess = guess or Guess()
    if isinstance(renderer, GaussianRenderer):
        return lambda cameras: _gaussians(renderer, guess, cameras)
    if isinstance(renderer, SurfaceRenderer):
        with torch.no_grad():
            surface = renderer.geometry()
        beyond = neighbours(surface.faces)
        return lambda cameras: from_mesh(
            surface.vertices,
            surface.faces,
            lambda places: guess.of(renderer.texture(places)),
            cameras,
            normals=renderer.lighting.normals,
            beyond=beyond,
            backend=renderer.backend,
        )
    return _view_of_mesh(renderer, guess)


def _gaussians(renderer: GaussianRenderer, guess: Guess, cameras: Cameras) -> GBuffer:
    settings = renderer.settings
    geometry = (renderer.means, renderer.quats, renderer.scales, renderer.opacities)
    mode, backend = settings.rasterize_mode, settings.backend
    return from_gaussians(*geometry, guess.of(renderer.colours), cameras, rasterize_mode=mode, backend=backend)[0]


def _view_of_mesh(renderer: Renderer, guess: Guess) -> View:
    device = next(renderer.parameters()).device
    mesh = renderer.to_mesh(MESH_RESOLUTION, MESH_FACES)
    vertices = torch.as_tensor(mesh.vertices).float().to(device)
    faces = torch.as_tensor(mesh.faces).long().to(device)
    colours = torch.as_tensor(mesh.colors).float().to(device)

    def at(places: Places) -> dict[str, Tensor]:
        corners = colours.index_select(0, faces.index_select(0, places.face).flatten()).view(-1, 3, 3)
        return guess.of((places.weight[..., None] * corners).sum(dim=1))

    beyond = neighbours(faces)
    return lambda cameras: from_mesh(vertices, faces, at, cameras, beyond=beyond)


def shown_by(settings: ShadeSettings, transform: str = "srgb") -> Shader:
    """Return a function that shades a G-buffer in a light, display-referred (`colour.VIEW_TRANSFORMS`)."""
    return lambda seen, light: to_display(shade(seen, light, settings).rgb, transform)


@torch.no_grad()
def relit(
    view: View,
    lights: Callable[[int], Prefiltered],
    cameras: Cameras,
    background: float | None,
    shader: Shader,
    transform: str = "srgb",
) -> Iterator[Tensor]:
    """Yield a picture [H, W, 3] in [0, 1] for each camera, shaded afresh.

    Args:
        lights: from the number of the picture to its light (the same one, or one that turns).
        background: a grey in [0, 1]; None: the light itself, as the camera sees it.
        shader: e.g. `shown_by`. transform: how a light in the background is shown.
    """
    for number in range(len(cameras)):
        light, seen = lights(number), view(cameras[number : number + 1])
        picture = shader(seen, light)
        sky = light.radiance(-seen.view) if background is None else None
        behind = torch.full_like(picture, background or 0.0) if sky is None else to_display(sky, transform)
        yield composite(picture, seen.alpha, behind)[0].clamp(0.0, 1.0)
