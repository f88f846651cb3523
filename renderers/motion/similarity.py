"""Similarities, and the gauge that keeps deformations free of them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from renderers.motion.bases import Basis
from sds3d.errors import ShapeError

_TINY = 1e-12
"""Added to squared angles, so that the gradient at no rotation is finite; far below any angle that matters."""


def rotation_from_vector(vector: Tensor) -> Tensor:
    """Return rotation matrices [..., 3, 3] of rotation vectors [..., 3] (axis times angle, radians; any angle).

    Exactly the identity at 0. Source: Rodrigues' formula.
    """
    angle = (vector.square().sum(dim=-1) + _TINY).sqrt()[..., None, None]
    x, y, z = vector.unbind(dim=-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    half = torch.sin(angle / 2) / (angle / 2)
    identity = torch.eye(3, device=vector.device, dtype=vector.dtype)
    return identity + torch.sin(angle) / angle * cross + 0.5 * half**2 * (cross @ cross)


def quaternion_from_vector(vector: Tensor) -> Tensor:
    """Return wxyz quaternions [..., 4] of rotation vectors [..., 3]."""
    angle = (vector.square().sum(dim=-1, keepdim=True) + _TINY).sqrt()
    return torch.cat([torch.cos(angle / 2), torch.sin(angle / 2) / angle * vector], dim=-1)


def rotation_from_quaternion(quaternion: Tensor) -> Tensor:
    """Return rotation matrices [..., 3, 3] of wxyz quaternions [..., 4] of any length above 0."""
    w, x, y, z = nn.functional.normalize(quaternion, dim=-1).unbind(dim=-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]
    rows += [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]
    rows += [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def quaternion_product(first: Tensor, second: Tensor) -> Tensor:
    """Return the Hamilton product of wxyz quaternions [..., 4]: the rotation `second` followed by `first`."""
    w, x, y, z = first.unbind(dim=-1)
    a, b, c, d = second.unbind(dim=-1)
    parts = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c]
    parts += [w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a]
    return torch.stack(parts, dim=-1)


class Similarity(NamedTuple):
    """Maps x to scale * rotation (x - centre) + centre + translation, one a frame.

    scale [F], rotation [F, 3, 3], quaternion [F, 4] wxyz of the rotation, translation [F, 3].
    """

    scale: Tensor
    rotation: Tensor
    quaternion: Tensor
    translation: Tensor


def move(points: Tensor, offsets: Tensor, similarity: Similarity, centre: Tensor) -> Tensor:
    """Return [F, P, 3]: similarity x (points + offsets). points: [P, 3]. offsets: [F, P, 3]. centre: [3].

    Written as points + change, so that no motion returns `points` bit for bit.
    """
    linear = similarity.scale[:, None, None] * similarity.rotation
    identity = torch.eye(3, device=points.device, dtype=points.dtype)
    turned = (points - centre) @ (linear - identity).transpose(1, 2)
    return points + (turned + offsets @ linear.transpose(1, 2) + similarity.translation[:, None])


def gauge_parts(offsets: Tensor, rest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rigid motion in offsets [F, P, 3]: mean shift [F, 3], angular velocity [F, 3], growth rate [F].

    The least squares fit of shift + velocity x (X - c) + rate (X - c), c the centroid of `rest` [P, 3]. Rotations that
    do not change the rest points (all on a line, or one point) get no part. Computed in the dtype given, the 3x3 system
    in float64.
    """
    centred = rest - rest.mean(dim=0)
    shift = offsets.mean(dim=1)
    total = centred.square().sum()
    inertia = (total * torch.eye(3, device=rest.device, dtype=rest.dtype) - centred.T @ centred).double()
    # A ridge as large as the rounding of the sums: points on a line keep finite answers, others do not notice.
    ridge = torch.finfo(rest.dtype).eps * total.double() + 1e-30
    inverse = torch.linalg.inv_ex(inertia + ridge * torch.eye(3, device=rest.device, dtype=torch.float64))[0]
    momentum = torch.linalg.cross(centred.expand_as(offsets), offsets, dim=-1).sum(dim=1)
    velocity = (momentum.double() @ inverse).to(offsets.dtype)
    rate = (centred * offsets).sum(dim=(1, 2)) / (total + 1e-30)
    return shift, velocity, rate


def gauge_project(offsets: Tensor, rest: Tensor, has_scale: bool) -> Tensor:
    """Return offsets [F, P, 3] without any infinitesimal rigid motion (nor growth, if `has_scale`) of `rest` [P, 3].

    What is left has mean 0, sum X x D = 0 (and sum X . D = 0), X centred: the cross-covariance of X and X + D is
    symmetric, so the nearest similarity to the moved points is exactly the one that was applied, and the split of a motion
    into similarity and deformation is unique (for D small enough that X^T (X + D) stays positive definite).
    Linear in the offsets; the rest points are constants.
    Source: the stationarity of Kabsch's and Umeyama's fits, derived here.
    """
    rest = rest.detach()
    shift, velocity, rate = gauge_parts(offsets, rest)
    centred = rest - rest.mean(dim=0)
    turning = torch.linalg.cross(velocity[:, None].expand_as(offsets), centred.expand_as(offsets), dim=-1)
    kept = offsets - shift[:, None] - turning
    return kept - rate[:, None, None] * centred if has_scale else kept


class Factorised(NamedTuple):
    """A trajectory as similarity x (rest + offsets): `similarity`, `offsets` [F, P, 3] in the gauge, `centre` [3]."""

    similarity: Similarity
    offsets: Tensor
    centre: Tensor


def factorise(points: Tensor, rest: Tensor, has_scale: bool) -> Factorised:
    """Return the unique split of a trajectory [F, P, 3] of the points `rest` [P, 3]; `move` puts it together again.

    Source: Umeyama 1991 (closest similarity; Kabsch's rotation without scale), frame by frame. Limits: no gradient is
    meant to pass; waits for the device; points on a line leave their own rotation undetermined.
    """
    centre = rest.mean(dim=0)
    centred, there = rest - centre, points - points.mean(dim=1, keepdim=True)
    left, singular, right = torch.linalg.svd(there.transpose(1, 2) @ centred)
    sign = torch.linalg.det(left @ right).sign()
    flips = torch.ones_like(singular)
    flips[:, 2] = sign
    rotation = (left * flips[:, None]) @ right
    growth = (singular * flips).sum(dim=1) / centred.square().sum()
    scale = growth if has_scale else torch.ones_like(growth)
    translation = points.mean(dim=1) - centre
    offsets = there @ rotation / scale[:, None, None] - centred
    return Factorised(Similarity(scale, rotation, _quaternion(rotation), translation), offsets, centre)


def scale_about(points: Tensor, factor: float | Tensor, centre: Tensor) -> Tensor:
    """Return points [P, 3] scaled about `centre` [3]; about a camera's centre the picture stays, depth is multiplied.

    Source: DreamScene4D's recomposition of objects by relative depth.
    """
    return centre + factor * (points - centre)


def _quaternion(rotation: Tensor) -> Tensor:
    """Return wxyz quaternions [F, 4] of rotation matrices [F, 3, 3]."""
    from scipy.spatial.transform import Rotation

    xyzw = Rotation.from_matrix(rotation.detach().cpu().double().numpy()).as_quat()
    return torch.as_tensor(xyzw[:, [3, 0, 1, 2]]).to(rotation)


class SimilarityTrack(nn.Module):
    """A similarity that changes in time, the identity at the basis' reference time and until it is trained.

    The rotation is a curve of rotation vectors, which are never wrapped: any number of turns can be reached.

    Args:
        basis: functions of time. has_scale: whether there is a scale; else it is 1.
    """

    def __init__(self, basis: Basis, has_scale: bool = False) -> None:
        super().__init__()
        self.basis, self.has_scale = basis, has_scale
        self.rotation = nn.Parameter(torch.zeros(basis.size, 3))
        self.translation = nn.Parameter(torch.zeros(basis.size, 3))
        if has_scale:
            self.log_scale = nn.Parameter(torch.zeros(basis.size, 1))

    def forward(self, times: Tensor) -> Similarity:
        """Return the similarity at `times` [F]."""
        if times.dim() != 1:
            raise ShapeError("times", "[frames]", tuple(times.shape))
        phi = self.basis.at(times)
        vector = phi @ self.rotation
        scale = (phi @ self.log_scale)[:, 0].exp() if self.has_scale else torch.ones_like(times)
        rotation, quaternion = rotation_from_vector(vector), quaternion_from_vector(vector)
        return Similarity(scale, rotation, quaternion, phi @ self.translation)
