"""Latitude-longitude images: to and from cube maps, and between the conventions of other programs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sds3d.conventions import WORLD_TO_GLTF
from sds3d.errors import ConfigError, ShapeError, nearest
from sds3d.shading import cubemap, directions

CONVENTIONS = ("blender", "threejs", "nvdiffrec", "mitsuba")
"""Whose column looks where; "blender" is ours. The formulas are in `column_of`."""

BLENDER_TO_GLTF = ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, -1.0, 0.0))
"""Rotation from a Z-up world to Y-up as Blender's exporter does it: (x, y, z) -> (x, z, -y)."""

AXES = {"gltf": WORLD_TO_GLTF, "blender": BLENDER_TO_GLTF}
"""How our world lies in the Y-up world of "threejs", "nvdiffrec" and "mitsuba". "gltf": as our .glb files do, so that a
viewer lights them as we do. "blender": for data sets whose Blender frame is taken as our world."""

MAX_PER_TEXEL = 16


def check_latlong(image: Tensor, name: str = "image") -> None:
    """Raise ShapeError unless `image` is [H, 2 H, C]."""
    if image.dim() != 3 or image.shape[1] != 2 * image.shape[0] or image.shape[0] < 1:
        raise ShapeError(name, "[H, 2 H, channels] (twice as wide as high)", tuple(image.shape))


def sample(image: Tensor, direction: Tensor) -> Tensor:
    """Return what an image [H, 2 H, C] holds at unit directions [..., 3], bilinear, [..., C]."""
    check_latlong(image)
    u, v = directions.latlong_places(direction)
    height, width, channels = image.shape
    wrapped = torch.cat([image[:, -1:], image, image[:, :1]], dim=1).permute(2, 0, 1)[None]
    column = (u * width + 0.5) * (2.0 / (width + 1)) - 1.0
    row = (v * height - 0.5) * (2.0 / max(height - 1, 1)) - 1.0
    grid = torch.stack([column, row], dim=-1).reshape(1, 1, -1, 2)
    found = torch.nn.functional.grid_sample(wrapped, grid, align_corners=True, padding_mode="border")
    return found.view(channels, -1).T.reshape(*direction.shape[:-1], channels)


def cubemap_from_latlong(image: Tensor, resolution: int) -> Tensor:
    """Return a cube map [6, R, R, C] of an image [H, 2 H, C] in our convention: the mean over each texel.

    Linear in the image, and differentiable. Limits: texels are averaged over at most 16 x 16 points.
    """
    check_latlong(image)
    count = min(math.ceil(image.shape[0] / (2 * resolution)) + 1, MAX_PER_TEXEL)
    found = sample(image, directions.cube_directions(resolution, count).to(image.device, image.dtype))
    return found.view(6, resolution, count, resolution, count, -1).mean(dim=(2, 4))


def latlong_from_cubemap(texels: Tensor, height: int) -> Tensor:
    """Return an image [H, 2 H, C] of a cube map [6, R, R, C] in our convention: the mean over each texel."""
    cubemap.check_cubemap(texels, "texels")
    count = min(math.ceil(2 * texels.shape[1] / height) + 1, MAX_PER_TEXEL)
    place = directions.latlong_directions(height, count).to(texels.device, texels.dtype)
    found = cubemap.lookup(cubemap.bordered(texels[None]), place)
    return found.view(height, count, 2 * height, count, -1).mean(dim=(1, 3))


def column_of(convention: str, direction: Sequence[float] | Tensor, axes: str = "gltf") -> float:
    """Return the column u in [0, 1) to which a convention maps one direction (x, y, z) of our world.

    Formulas, in the convention's own axes: blender (Z up) 1/2 - atan2(y, x) / 2 pi; threejs (Y up) 1/2 + atan2(z, x) / 2 pi;
    nvdiffrec (Y up) 1/2 + atan2(x, -z) / 2 pi; mitsuba (Y up) atan2(x, -z) / 2 pi. All have row 0 at the zenith.
    Raises: ConfigError for unknown names.
    """
    for name, given, allowed in (("convention", convention, CONVENTIONS), ("axes", axes, tuple(AXES))):
        if given not in allowed:
            raise ConfigError(
                f"The light's {name} is '{given}', which is unknown. Use {nearest(given, allowed)}.", name
            )
    x, y, z = (float(value) for value in direction)
    if convention == "blender":
        return (0.5 - math.atan2(y, x) / (2.0 * math.pi)) % 1.0
    x, y, z = (row[0] * x + row[1] * y + row[2] * z for row in AXES[axes])
    if convention == "threejs":
        return (0.5 + math.atan2(z, x) / (2.0 * math.pi)) % 1.0
    return ((0.5 if convention == "nvdiffrec" else 0.0) + math.atan2(x, -z) / (2.0 * math.pi)) % 1.0


def convert(image: Tensor, source: str, target: str = "blender", axes: str = "gltf") -> Tensor:
    """Return an image [H, 2 H, C] of convention `source` rearranged for convention `target`; no value changes.

    All conventions look at the sphere from inside, so they differ by a shift of columns only.
    Raises: ShapeError unless the image is [H, 2 H, C] with an even H; ConfigError for unknown names.
    """
    check_latlong(image)
    shift = column_of(target, (1.0, 0.0, 0.0), axes) - column_of(source, (1.0, 0.0, 0.0), axes)
    columns = shift * image.shape[1]
    if abs(columns - round(columns)) > 1e-6:
        raise ShapeError("image", "[H, 2 H, channels] with an even number of rows", tuple(image.shape))
    return image.roll(round(columns), dims=1)
