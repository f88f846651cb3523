"""Cameras of other programs in our frame, and worlds of unknown place and size in ours."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from sds3d.cameras import Cameras
from sds3d.conventions import OPENCV_TO_OPENGL
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError, ShapeError

DISTANCE = 2.5
"""Usual distance of cameras from the origin, world units (see `sds3d.cameras`)."""


def cameras_at(cam_to_world: Tensor, intrinsics: Tensor, width: int, height: int) -> Cameras:
    """Return cameras of any place and direction; their orbit coordinates are those of their places.

    cam_to_world: [B, 4, 4] OpenCV axes. intrinsics: [B, 3, 3] pixels.
    Raises: ShapeError; AssetError if a matrix is not finite or its axes are not orthonormal (a world of another scale).
    """
    if cam_to_world.dim() != 3 or cam_to_world.shape[1:] != (4, 4):
        raise ShapeError("cam_to_world", "[B, 4, 4]", tuple(cam_to_world.shape))
    if tuple(intrinsics.shape) != (len(cam_to_world), 3, 3):
        raise ShapeError("intrinsics", f"[{len(cam_to_world)}, 3, 3]", tuple(intrinsics.shape))
    axes = cam_to_world[:, :3, :3].double()
    error = (axes.transpose(1, 2) @ axes - torch.eye(3, dtype=torch.float64)).abs().amax(dim=(1, 2))
    is_wrong = ~(error < 1e-3) | ~(torch.linalg.det(axes) > 0)
    if is_wrong.any():
        first = int(is_wrong.nonzero()[0, 0])
        raise AssetError(
            f"Camera {first} is no rotation and translation: its axes differ from orthonormal, right-handed ones by "
            f"{float(error[first]):.2g}. Rigid matrices are needed: take out scales and mirrors."
        )
    place = cam_to_world[:, :3, 3].float()
    distance = torch.linalg.vector_norm(place, dim=1)
    azimuth = torch.rad2deg(torch.atan2(place[:, 1], place[:, 0])).remainder(360.0)
    elevation = torch.rad2deg(torch.asin((place[:, 2] / distance.clamp_min(1e-9)).clamp(-1.0, 1.0)))
    matrix = cam_to_world.float()
    return Cameras(matrix, intrinsics.float(), width, height, azimuth, elevation, distance)


def from_opengl(cam_to_world: Tensor) -> Tensor:
    """Return [B, 4, 4] matrices with OpenCV axes (y down, z forward) of ones with OpenGL axes (y up, z backward)."""
    return cam_to_world * torch.tensor(OPENCV_TO_OPENGL, dtype=cam_to_world.dtype)


def pinhole(count: int, width: int, height: int, angle_x_rad: float) -> Tensor:
    """Return [count, 3, 3] intrinsics of a horizontal field of view, the principal point in the middle."""
    if not 0.0 < angle_x_rad < math.pi:
        raise AssetError(
            f"The horizontal field of view is {angle_x_rad:g} radians, but 0 to pi is allowed. Give radians, not degrees."
        )
    focal = 0.5 * width / math.tan(0.5 * angle_x_rad)
    row = [[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]]
    return torch.tensor(row).expand(count, 3, 3).clone()


def look_at_point(cameras: Cameras) -> Tensor:
    """Return the point [3] nearest to all optical axes, by least squares. Limits: parallel axes have none (NaN)."""
    origin, axis = cameras.cam_to_world[:, :3, 3].double(), cameras.cam_to_world[:, :3, 2].double()
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None, :]  # projector [B, 3, 3]
    total = across.sum(dim=0)
    point = torch.linalg.lstsq(total, (across @ origin[:, :, None]).sum(dim=0)).solution[:, 0]
    return point.float()


def normalised(views: ViewSet, distance: float = DISTANCE) -> ViewSet:
    """Return the views in a world where the cameras look at the origin, from `distance` in the mean, +Z up.

    Up is the direction most nearly across all the pictures' rows (exact for cameras held level), made +Z; azimuth 0 is
    that of the first camera. What photographs by COLMAP need, whose world has no meaning. Light maps would lose theirs.
    Raises: AssetError if there are known normals or lights, or the axes of the cameras do not meet.
    """
    if views.lights or views.normals is not None:
        raise AssetError(
            f"The set '{views.name}' has lights or normals, which belong to its world, so it cannot be turned. Use "
            "`ViewSet.centred`, which only moves and scales."
        )
    moved = views.centred(look_at_point(views.cameras), 1.0)
    up = torch.linalg.svd(moved.cameras.cam_to_world[:, :3, 0].double())[2][2].float()
    up = -up if float((moved.cameras.cam_to_world[:, :3, 1] @ up).sum()) > 0 else up
    first = moved.cameras.cam_to_world[0, :3, 3]
    ahead = torch.nn.functional.normalize(first - (first @ up) * up, dim=0)
    turn = torch.stack([ahead, torch.linalg.cross(up, ahead), up])  # rows: the new axes in the old world
    size = moved.cameras.distance.mean()
    if not (torch.isfinite(turn).all() and torch.isfinite(size) and size > 0):
        raise AssetError(
            f"The cameras of the set '{views.name}' do not look at a common point. Photographs from all around one object "
            "are needed: take out the others."
        )
    matrices = moved.cameras.cam_to_world.clone()
    matrices[:, :3, :3] = turn @ matrices[:, :3, :3]
    matrices[:, :3, 3] = (turn @ matrices[:, :3, 3, None])[..., 0] * (distance / size)
    cameras = views.cameras
    return replace(views, cameras=cameras_at(matrices, cameras.intrinsics, cameras.width, cameras.height))
