"""Lights of our own, made by formulas: nothing is downloaded and nobody else's pictures ship."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from sds3d.errors import AssetError, nearest
from sds3d.shading import directions, hdri
from sds3d.shading.environment import EnvironmentLight

HEIGHT, RESOLUTION = 128, 32
"""Rows of a light's image and texels along an edge of its cube map, unless asked for otherwise."""


def _towards(azimuth_deg: float, elevation_deg: float) -> Tensor:
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    return torch.tensor([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])


def _lamp(direction: Tensor, azimuth_deg: float, elevation_deg: float, radius_deg: float, sharpness: float) -> Tensor:
    """Return [..., 1] in [0, 1], a round lamp: 1 inside, falling to 0 about its radius; larger `sharpness` is sharper."""
    cosine = (direction * _towards(azimuth_deg, elevation_deg)).sum(dim=-1, keepdim=True)
    angle = torch.rad2deg(torch.acos(cosine.clamp(-1.0, 1.0)))
    return torch.sigmoid((radius_deg - angle) * sharpness)


def _panel(direction: Tensor, azimuth_deg: float, elevation_deg: float, width: float, height: float) -> Tensor:
    """Return [..., 1] in [0, 1], a rectangle that faces the origin from distance 1, of half-sizes `width` and `height`."""
    forward = _towards(azimuth_deg, elevation_deg)
    right = torch.nn.functional.normalize(torch.linalg.cross(forward, torch.tensor([0.0, 0.0, 1.0])), dim=0)
    up = torch.linalg.cross(right, forward)
    depth = direction @ forward
    x, y = ((direction @ axis) / depth.clamp_min(1e-6) for axis in (right, up))
    inside = torch.sigmoid((width - x.abs()) * 40.0) * torch.sigmoid((height - y.abs()) * 40.0)
    return torch.where(depth > 0.0, inside, torch.zeros_like(inside))[..., None]


def _mix(low: list[float], high: list[float], share: Tensor) -> Tensor:
    return torch.tensor(low) + (torch.tensor(high) - torch.tensor(low)) * share


def constant(direction: Tensor) -> Tensor:
    """Return light 1 from everywhere: the white furnace."""
    return torch.ones_like(direction)


def studio(direction: Tensor) -> Tensor:
    """Return a photographer's studio: a large key light, a fill light, a rim light and a grey room with a pale floor."""
    room = _mix([0.16, 0.16, 0.16], [0.10, 0.10, 0.11], direction[..., 2:] * 0.5 + 0.5)
    key = _panel(direction, 45.0, 40.0, 0.55, 0.4) * torch.tensor([9.0, 8.7, 8.2])
    fill = _panel(direction, -50.0, 20.0, 0.45, 0.6) * torch.tensor([2.2, 2.4, 2.7])
    rim = _panel(direction, 190.0, 45.0, 0.6, 0.2) * torch.tensor([7.0, 7.0, 7.4])
    return room + key + fill + rim


def sunset(direction: Tensor) -> Tensor:
    """Return a low warm sun on +Y's side of the front, a glowing horizon, a violet sky and dark ground."""
    up = direction[..., 2:]
    sky = _mix([0.95, 0.42, 0.18], [0.10, 0.12, 0.30], up.clamp(0.0, 1.0).pow(0.45))
    ground = _mix([0.10, 0.07, 0.05], [0.03, 0.025, 0.025], (-up).clamp(0.0, 1.0).pow(0.5))
    sun = _lamp(direction, 60.0, 8.0, 4.0, 2.0) * torch.tensor([90.0, 42.0, 14.0])
    glow = _lamp(direction, 60.0, 6.0, 22.0, 0.15) * torch.tensor([1.6, 0.7, 0.2])
    return ground + (sky - ground) * torch.sigmoid(up * 60.0) + sun + glow


def overcast(direction: Tensor) -> Tensor:
    """Return an overcast day: the CIE sky (1 + 2 sin elevation) / 3 over grey ground. Source: CIE 110-1994."""
    up = direction[..., 2:]
    sky = (1.0 + 2.0 * up.clamp(0.0, 1.0)) / 3.0 * torch.tensor([1.35, 1.42, 1.55])
    ground = torch.tensor([0.22, 0.21, 0.19])
    return ground + (sky - ground) * torch.sigmoid(up * 40.0)


def noon(direction: Tensor) -> Tensor:
    """Return a clear day: a high small sun, blue sky, bright ground."""
    up = direction[..., 2:]
    sky = _mix([0.75, 0.85, 1.0], [0.18, 0.36, 0.85], up.clamp(0.0, 1.0).pow(0.6))
    sun = _lamp(direction, -35.0, 55.0, 3.0, 3.0) * torch.tensor([160.0, 150.0, 130.0])
    return 0.28 + (sky - 0.28) * torch.sigmoid(up * 60.0) + sun


def ring(direction: Tensor) -> Tensor:
    """Return a ring light around the front camera in a dark room: a bright circle in every reflection."""
    outer = _lamp(direction, 0.0, 15.0, 32.0, 1.2)
    inner = _lamp(direction, 0.0, 15.0, 23.0, 1.2)
    return 0.06 + (outer - inner).clamp_min(0.0) * torch.tensor([9.0, 9.0, 9.3])


def lamps(direction: Tensor) -> Tensor:
    """Return three soft coloured lamps: red front right, green behind, blue above left."""
    red = _lamp(direction, -40.0, 10.0, 25.0, 0.25) * torch.tensor([5.0, 0.8, 0.5])
    green = _lamp(direction, 170.0, 20.0, 25.0, 0.25) * torch.tensor([0.5, 4.0, 0.8])
    blue = _lamp(direction, 70.0, 50.0, 25.0, 0.25) * torch.tensor([0.6, 0.9, 5.0])
    return 0.08 + red + green + blue


def sky(direction: Tensor) -> Tensor:
    """Return a smooth sky: warm brown below, white at the horizon, blue above; no lamp in it."""
    up = direction[..., 2:]
    return torch.cat([0.7 + 0.25 * up, 0.75 + 0.4 * up, 0.8 + 0.6 * up], dim=-1) * (1.0 + 0.3 * direction[..., :1])


LIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    light.__name__: light for light in (studio, sunset, overcast, noon, ring, lamps, sky, constant)
}
"""Each maps unit directions [..., 3] of our world to linear radiance [..., 3]."""


def named_light(name: str, height: int = HEIGHT) -> Tensor:
    """Return a light of `LIGHTS` as an image [height, 2 height, 3], linear, in our convention, 2 x 2 points a texel.

    Raises: AssetError for an unknown name.
    """
    if name not in LIGHTS:
        raise AssetError(
            f"There is no light '{name}'. Use {nearest(name, LIGHTS)}, or the path of a .hdr or .exr file."
        )
    fine = LIGHTS[name](directions.latlong_directions(height, per_texel=2))
    return fine.view(height, 2, 2 * height, 2, 3).mean(dim=(1, 3))


def open_light(
    light: str | Path,
    resolution: int = RESOLUTION,
    *,
    convention: str = "blender",
    axes: str = "gltf",
    scale: float = 1.0,
) -> EnvironmentLight:
    """Return the light of a file (see `hdri.read_light_image`), or one of `LIGHTS` by its name.

    A name may carry an ending ("studio.exr"); a file of this name comes first. scale: brightness factor, > 0.
    Raises: what `read_light_image` and `named_light` raise.
    """
    path = Path(light)
    if not path.exists() and path.parent == Path(".") and (path.suffix == "" or path.stem in LIGHTS):
        image = named_light(path.stem if path.suffix in ("", *hdri.ENDINGS) else str(light))
    else:
        image = hdri.read_light_image(path, convention, axes)
    return EnvironmentLight.from_latlong(image * scale, resolution)
