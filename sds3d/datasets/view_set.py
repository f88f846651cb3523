"""Pictures of one object from known cameras, with whatever is known about its surface and its light."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.errors import AssetError, ShapeError

PLANES = {"images": 3, "alpha": 1, "normals": 3, "albedo": 3, "roughness": 1, "metallic": 1}
"""Fields of a `ViewSet` that are pictures, and their channels."""


@dataclass(frozen=True, kw_only=True)
class ViewSet:
    """B pictures of H x W pixels of one object, all in the world of `cameras`.

    Colours are not premultiplied: a pixel's value is the mean over what the object covers of it, whatever is behind.

    Args:
        name: what it is called in tables and messages.
        images: [B, H, W, 3] float32 in [0, 1], display-referred sRGB (see `view_transform`).
        alpha: [B, H, W, 1] float32 in [0, 1], coverage by the object.
        cameras: B cameras of H x W pixels.
        names: B names of the pictures.
        normals: [B, H, W, 3] unit, world frame. albedo: [B, H, W, 3] linear base colour in [0, 1].
        roughness, metallic: [B, H, W, 1] in [0, 1], perceptual roughness as in glTF. None where unknown.
        relit: name of a light -> [B, H, W, 3], the same views under it, encoded as `images`.
        lights: name of a light -> [h, w, 3] linear radiance, latitude-longitude map in our convention (row 0 at +Z).
        light: name of the light of `images`, "" if it has none.
        view_transform: how linear light became `images`, a name of `sds3d.shading`'s tone mapping.

    Raises: AssetError if there are no pictures, or as many cameras or names as pictures are missing; ShapeError if a
        picture has another shape.
    """

    name: str
    images: Tensor
    alpha: Tensor
    cameras: Cameras
    names: tuple[str, ...]
    normals: Tensor | None = None
    albedo: Tensor | None = None
    roughness: Tensor | None = None
    metallic: Tensor | None = None
    relit: Mapping[str, Tensor] = field(default_factory=dict)
    lights: Mapping[str, Tensor] = field(default_factory=dict)
    light: str = ""
    view_transform: str = "srgb"

    def __post_init__(self) -> None:
        count = len(self.images)
        if count == 0:
            raise AssetError(f"The set '{self.name}' has no pictures. At least one is needed: check the split's name.")
        for what, given in (("cameras", len(self.cameras)), ("names", len(self.names))):
            if given != count:
                raise AssetError(
                    f"The set '{self.name}' has {count} pictures but {given} {what}. One each is needed: remove the rest, "
                    "or add what is missing."
                )
        size = (count, self.cameras.height, self.cameras.width)
        planes = {name: getattr(self, name) for name in PLANES} | {f"relit['{k}']": v for k, v in self.relit.items()}
        for name, plane in planes.items():
            expected = (*size, PLANES.get(name, 3))
            if plane is not None and tuple(plane.shape) != expected:
                raise ShapeError(f"ViewSet.{name}", str(list(expected)), tuple(plane.shape))

    def __len__(self) -> int:
        return len(self.images)

    def on(self, background: Tensor, light: str = "") -> Tensor:
        """Return [B, H, W, 3] the pictures on `background` [B, 3], or those relit by the light named."""
        pictures = self.relit[light] if light else self.images
        return pictures * self.alpha + (1.0 - self.alpha) * background[:, None, None]

    def pick(self, rows: Tensor) -> ViewSet:
        """Return the views `rows` [K] int64."""
        planes = {name: getattr(self, name) for name in PLANES}
        chosen = {name: plane[rows] for name, plane in planes.items() if plane is not None}
        relit = {name: pictures[rows] for name, pictures in self.relit.items()}
        names = tuple(self.names[row] for row in rows.tolist())
        return replace(self, **chosen, relit=relit, names=names, cameras=self.cameras[rows])

    def to(self, device: torch.device | str) -> ViewSet:
        """Return the same views on `device`."""
        planes = {name: plane.to(device) for name in PLANES if (plane := getattr(self, name)) is not None}
        relit = {name: pictures.to(device) for name, pictures in self.relit.items()}
        return replace(self, **planes, relit=relit, cameras=self.cameras.to(device))

    def split(self, every: int = 8) -> tuple[ViewSet, ViewSet]:
        """Return (training views, held-out views): every `every`-th view is held out, from the first on, as is usual."""
        if not 2 <= every <= len(self):
            raise AssetError(
                f"The set '{self.name}' of {len(self)} views cannot be split at every {every}th: 2 to {len(self)} is "
                "allowed. Give another number."
            )
        rows = torch.arange(len(self))
        return self.pick(rows[rows % every != 0]), self.pick(rows[rows % every == 0])

    def centred(self, centre: Tensor, scale: float) -> ViewSet:
        """Return the same pictures in a world moved by -`centre` [3] and then scaled by `scale` > 0."""
        from sds3d.datasets.frames import cameras_at

        matrices = self.cameras.cam_to_world.clone()
        matrices[:, :3, 3] = scale * (matrices[:, :3, 3] - centre)
        return replace(
            self, cameras=cameras_at(matrices, self.cameras.intrinsics, self.cameras.width, self.cameras.height)
        )
