"""What is seen at each pixel, before any light: the one thing that Gaussians and meshes both become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import ShapeError
from sds3d.shading.brdf import Material

_CHANNELS = {"alpha": 1, "normal": 3, "position": 3, "base_colour": 3, "roughness": 1, "metallic": 1, "view": 3}


@dataclass(frozen=True)
class GBuffer:
    """Pictures of attributes, each [B, H, W, C], un-premultiplied: what the surface has, not mixed with what is behind it.

    Args:
        alpha: [..., 1] coverage in [0, 1]. Where it is 0 the other fields are finite and mean nothing.
        normal: [..., 3] unit, world frame. position: [..., 3] world frame.
        base_colour: [..., 3] linear Rec.709. roughness, metallic: [..., 1] in [0, 1].
        view: [..., 3] unit, from the surface to the camera. It follows from the pixel alone (`view_directions`).
        extras: further pictures, e.g. "raw" [..., 3] display colours and "progress" [..., 1] of radiance distillation.

    Raises: ShapeError if the pictures differ in size or have another number of channels.
    """

    alpha: Tensor
    normal: Tensor
    position: Tensor
    base_colour: Tensor
    roughness: Tensor
    metallic: Tensor
    view: Tensor
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        size = self.alpha.shape[:3]
        for entry in fields(self)[:-1]:
            tensor, channels = getattr(self, entry.name), _CHANNELS[entry.name]
            if tensor.dim() != 4 or tensor.shape[:3] != size or tensor.shape[3] != channels:
                expected = [*size, channels] if self.alpha.dim() == 4 else ["B", "H", "W", channels]
                raise ShapeError(f"G-buffer '{entry.name}'", f"[{', '.join(map(str, expected))}]", tuple(tensor.shape))

    @property
    def material(self) -> Material:
        """The material of each pixel."""
        return Material(self.base_colour, self.roughness, self.metallic)


def view_directions(cameras: Cameras) -> Tensor:
    """Return the unit directions [B, H, W, 3], world frame, from what each pixel sees to the camera."""
    device, dtype = cameras.intrinsics.device, cameras.intrinsics.dtype
    columns = torch.arange(cameras.width, device=device, dtype=dtype) + 0.5
    rows = torch.arange(cameras.height, device=device, dtype=dtype) + 0.5
    focal, centre = cameras.intrinsics[:, [0, 1], [0, 1]], cameras.intrinsics[:, :2, 2]
    x = (columns[None] - centre[:, :1]) / focal[:, :1]
    y = (rows[None] - centre[:, 1:]) / focal[:, 1:]
    shape = (len(cameras), cameras.height, cameras.width)
    x, y = x[:, None].expand(shape), y[:, :, None].expand(shape)
    forward = torch.stack([x, y, torch.ones_like(x)], dim=-1)
    towards = torch.einsum("bij,bhwj->bhwi", cameras.cam_to_world[:, :3, :3], forward)
    return -torch.nn.functional.normalize(towards, dim=-1)


def positions(distance: Tensor, view: Tensor, cameras: Cameras) -> Tensor:
    """Return the points [B, H, W, 3] at `distance` [B, H, W, 1] from the camera, on the lines of `view`."""
    return cameras.cam_to_world[:, None, None, :3, 3] - distance * view
