"""EWA projection: 3D Gaussians become 2D Gaussians in the image plane, in plain torch for the portable back ends."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from renderers.gaussians import constants


class Projection(NamedTuple):
    """C cameras' views of N Gaussians.

    means2d [C, N, 2] pixels; depths [C, N] camera z; conics [C, N, 3] upper triangle of the inverse 2D covariance,
    1/px^2; opacities [C, N] (times the antialiasing factor if asked for); radii [C, N, 2] int32 pixels, 0 where culled
    (the other fields are then finite but meaningless).
    """

    means2d: Tensor
    depths: Tensor
    conics: Tensor
    opacities: Tensor
    radii: Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """Return rotation matrices [3, 3, N] (row, column, Gaussian) of quaternions [N, 4], wxyz, any length above 0."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows).reshape(3, 3, -1)


def project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    radius_clip: float = 0.0,
    antialiased: bool = False,
) -> Projection:
    """Return the 2D Gaussians of all cameras.

    Args:
        means: [N, 3] world frame. quats: [N, 4] wxyz, any length > 0. scales: [N, 3] standard deviations, world units.
        opacities: [N] in [0, 1]. viewmats: [C, 4, 4] world to camera, OpenCV axes. Ks: [C, 3, 3] pixels (skew ignored).
        near_plane, far_plane: Gaussians whose centre lies outside are culled. eps2d: px^2 added to the 2D covariance.
        radius_clip: Gaussians with both radii at most this many pixels are culled.
        antialiased: scale opacities by sqrt(det / det with eps2d): blur gives thin splats no light (Mip-Splatting).

    Source: Zwicker et al., EWA Splatting, 2001; Kerbl et al., 3D Gaussian Splatting, 2023; thresholds of gsplat 1.5.3.
    Deviations: the determinant is |p x q|^2 plus the blur terms instead of ac - b^2: the same number without
        cancellation, so elongated splats stay exact in float32.
    Limits: differentiable in everything but radii. A Gaussian with a NaN is culled; look for NaN in the parameters.
    """
    p, q, camera_points = _image_axes(means, quats, scales, viewmats, Ks, width, height, near_plane, far_plane)
    x, y, z, safe_z = camera_points
    focal, centre = Ks[:, [0, 1], [0, 1]], Ks[:, :2, 2]
    means2d = torch.stack(
        [focal[:, :1] * x / safe_z + centre[:, :1], focal[:, 1:] * y / safe_z + centre[:, 1:]], dim=-1
    )
    a0, b, c0 = (p * p).sum(dim=1), (p * q).sum(dim=1), (q * q).sum(dim=1)  # [C, N]
    determinant0 = torch.linalg.cross(p, q, dim=1).square().sum(dim=1)
    determinant = determinant0 + eps2d * (a0 + c0) + eps2d * eps2d
    positive = determinant > 0
    determinant = torch.where(positive, determinant, torch.ones_like(determinant))
    a, c = a0 + eps2d, c0 + eps2d
    conics = torch.stack([c / determinant, -b / determinant, a / determinant], dim=-1)
    effective = opacities.expand(z.shape)
    if antialiased:
        # The floor keeps the square root differentiable; splats that reach it are far below ALPHA_MIN and culled.
        effective = effective * (determinant0 / determinant).clamp_min(1e-12).sqrt()
    in_range = positive & (z >= near_plane) & (z <= far_plane)
    radii = _radii(means2d, a, c, effective, in_range, width, height, radius_clip)
    return Projection(means2d, z, conics, effective, radii)


def _image_axes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    near_plane: float,
    far_plane: float,
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Return p, q [C, 3, N], the rows of J R M (so that cov2D = [[p.p, p.q], [p.q, q.q]]), and x, y, z, safe z [C,
    N]."""
    cameras, count = viewmats.shape[0], means.shape[0]
    rotation = viewmats[:, :3, :3]
    x, y, z = (rotation @ means.T + viewmats[:, :3, 3:]).unbind(1)  # each [C, N]
    # Behind the camera the formulas divide by zero; a harmless depth keeps values and gradients finite there.
    safe_z = torch.where((z >= near_plane) & (z <= far_plane), z, torch.ones_like(z))
    axes = rotation_matrices(quats) * scales.T  # [3, 3, N]: columns are the scaled axes of a Gaussian
    axes = (rotation @ axes.reshape(3, 3 * count)).reshape(cameras, 3, 3, count)
    rows = []
    for axis, (component, size) in enumerate(((x, width), (y, height))):
        focal, centre = Ks[:, axis, axis, None], Ks[:, axis, 2, None]
        margin = constants.JACOBIAN_MARGIN * 0.5 * size / focal
        slope = torch.clamp(component / safe_z, -(centre / focal + margin), (size - centre) / focal + margin)
        rows.append((focal / safe_z)[:, None] * (axes[:, axis] - slope[:, None] * axes[:, 2]))  # [C, 3, N]
    return rows[0], rows[1], (x, y, z, safe_z)


@torch.no_grad()
def _radii(
    means2d: Tensor,
    variance_x: Tensor,
    variance_y: Tensor,
    opacities: Tensor,
    in_range: Tensor,
    width: int,
    height: int,
    radius_clip: float,
) -> Tensor:
    """Return the [C, N, 2] int32 half-sizes of the box outside of which alpha < ALPHA_MIN; 0 where culled."""
    extent = (2.0 * (opacities / constants.ALPHA_MIN).clamp_min(1.0).log()).sqrt().clamp_max(constants.EXTENT_MAX)
    radii = torch.stack([(extent * variance_x.sqrt()).ceil(), (extent * variance_y.sqrt()).ceil()], dim=-1)
    limits = torch.tensor([width, height], dtype=means2d.dtype).to(means2d.device)
    visible = in_range & (opacities >= constants.ALPHA_MIN) & (radii > radius_clip).any(dim=-1)
    visible = visible & ((means2d + radii > 0) & (means2d - radii < limits)).all(dim=-1)
    # A radius beyond int32 covers the image as surely as a smaller one.
    radii = radii.clamp_max(float(2**30))
    return torch.where(visible[..., None], radii, torch.zeros_like(radii)).to(torch.int32)
