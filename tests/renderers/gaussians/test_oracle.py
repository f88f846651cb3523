"""The CPU kernels against an independent dense float64 oracle, over hostile scenes; and by finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians.rasterise import rasterise
from sds3d.cameras import orbit

ALPHA_MIN, ALPHA_MAX, STOP, BLUR, NEAR = 1 / 255, 0.999, 1e-4, 0.3, 0.01


def oracle(means, quats, scales, opacities, colors, viewmats, Ks, width, height):
    """Return [C, H, W, D + 2]: colours, accumulated depth, alpha. One Gaussian after the other, every pixel."""
    return torch.stack(
        [
            _picture(means, quats, scales, opacities, colors, v, k, width, height)
            for v, k in zip(viewmats, Ks, strict=True)
        ]
    )


def _picture(means, quats, scales, opacities, colors, view, K, width, height):
    rotation, points = view[:3, :3], means @ view[:3, :3].T + view[:3, 3]
    rows, columns = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    out, left = torch.zeros(height, width, colors.shape[1] + 1, dtype=means.dtype), torch.ones(height, width).to(means)
    is_done = torch.zeros(height, width, dtype=torch.bool)
    for i in torch.argsort(points[:, 2], stable=True).tolist():
        z = points[i, 2]
        if z < NEAR:
            continue
        mean, covariance = _project(points[i], _covariance(quats[i], scales[i], rotation), K, width, height)
        conic = torch.linalg.inv(covariance + BLUR * torch.eye(2).to(means))
        offset = torch.stack([columns, rows], dim=-1).to(means) - mean
        sigma = 0.5 * torch.einsum("hwi,ij,hwj->hw", offset, conic, offset)
        alpha = (opacities[i] * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
        alpha = torch.where(alpha < ALPHA_MIN, 0.0, alpha)
        is_done = is_done | (left * (1 - alpha) <= STOP)
        alpha = torch.where(is_done, 0.0, alpha)
        feature = torch.cat([colors[i], z[None]])
        out, left = out + (left * alpha)[..., None] * feature, left * (1 - alpha)
    return torch.cat([out, 1 - left[..., None]], dim=-1)


def _covariance(quat, scale, rotation):
    """Return the 3D covariance in the camera's frame, by Rodrigues' formula."""
    w, axis = quat[0] / quat.norm(), quat[1:] / quat.norm()
    zero = torch.zeros_like(w)
    cross = torch.stack([zero, -axis[2], axis[1], axis[2], zero, -axis[0], -axis[1], axis[0], zero]).reshape(3, 3)
    turn = torch.eye(3).to(quat) + 2 * w * cross + 2 * cross @ cross
    return rotation @ turn @ torch.diag(scale**2) @ turn.T @ rotation.T


def _project(point, covariance, K, width, height):
    x, y, z = point
    slopes = []
    for ratio, focal, centre, size in ((x / z, K[0, 0], K[0, 2], width), (y / z, K[1, 1], K[1, 2], height)):
        margin = 0.15 * size / focal
        slopes.append(ratio.clamp(float(-centre / focal - margin), float((size - centre) / focal + margin)))
    zero = torch.zeros_like(z)
    jacobian = torch.stack([K[0, 0] / z, zero, -K[0, 0] * slopes[0] / z, zero, K[1, 1] / z, -K[1, 1] * slopes[1] / z])
    jacobian = jacobian.reshape(2, 3)
    mean = torch.stack([K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]])
    return mean, jacobian @ covariance @ jacobian.T


def hostile(seed, count, cameras, width, height):
    """Return a scene with Gaussians behind cameras, at the border, huge, tiny, needles, of opacity 0 and 1."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    means, scales = 0.7 * normal(count, 3), 0.12 * torch.exp(0.6 * normal(count, 3))
    opacities = torch.sigmoid(1.5 * normal(count))
    for kind, (size, opacity) in enumerate(((2.0, 0.3), (1e-4, 0.9), (None, 0.8), (0.3, 0.0), (0.2, 1.0))):
        if count > 7 * kind + 3:
            rows = slice(7 * kind, 7 * kind + 3)
            scales[rows] = torch.tensor([1.5, 0.01, 0.01]) if size is None else size
            opacities[rows] = opacity
    views = orbit(
        360 * torch.rand(cameras, generator=generator),
        40 * torch.rand(cameras, generator=generator) - 10,
        0.4 + 2.2 * torch.rand(cameras, generator=generator),
        55.0,
        width,
        height,
    )
    return [means, normal(count, 4), scales, opacities, torch.rand(count, 3, generator=generator)], views


@pytest.mark.parametrize(
    ("seed", "count", "cameras", "width", "height"),
    [(0, 45, 1, 24, 24), (1, 40, 2, 37, 9), (2, 1, 3, 8, 13), (3, 36, 8, 11, 17), (4, 0, 2, 5, 6), (5, 40, 3, 33, 34)],
)
def test_hostile_scenes(seed, count, cameras, width, height):
    leaves, views = hostile(seed, count, cameras, width, height)
    pictures, gradients = [], []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in leaves]
        viewmats, Ks = views.world_to_cam.to(dtype), views.intrinsics.to(dtype)
        if dtype == torch.float32:
            image, alpha, _ = rasterise(*inputs, viewmats, Ks, width, height, render_mode="RGB+D", backend="cpu")
            picture = torch.cat([image, alpha], dim=-1)
        else:
            picture = oracle(*inputs, viewmats, Ks, width, height)
        upstream = torch.randn(picture.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)
        if count:
            gradients.append(torch.autograd.grad((picture * upstream).sum(), inputs))
        pictures.append(picture.detach().double())
    error = (pictures[0] - pictures[1]).abs() / torch.tensor([1.0, 1.0, 1.0, 3.0, 1.0])  # depths reach 3
    band = (error.amax(dim=-1) > 1e-4).sum()  # pixels where a threshold is met by one and not by the other
    assert band <= 2e-3 * error[..., 0].numel() and error.mean() < 1e-5
    for ours, theirs in zip(*gradients, strict=True) if count else ():
        ours, scale = ours.double(), torch.linalg.vector_norm(theirs)
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-3 * scale
        assert (ours * theirs).sum() >= 0.9999 * scale * torch.linalg.vector_norm(ours)
        assert (ours - theirs).sum().abs() <= 1e-3 * theirs.abs().sum()  # no signed bias


def test_the_scenes_are_hostile():
    """They hold what they are said to hold, and the picture is not empty."""
    leaves, views = hostile(3, 36, 8, 11, 17)
    depths = torch.einsum("cj,nj->cn", views.world_to_cam[:, 2, :3], leaves[0]) + views.world_to_cam[:, 2, 3:]
    assert (depths < 0).any(dim=1).sum() >= 3 and (leaves[3] == 0).any() and (leaves[3] == 1).any()
    assert leaves[2].max() == 2.0 and leaves[2].min() == pytest.approx(1e-4)
    picture = oracle(*(t.double() for t in leaves), views.world_to_cam.double(), views.intrinsics.double(), 11, 17)
    assert picture[..., -1].max() > 0.9


def test_the_oracle_draws_a_gaussian_as_the_formula_says():
    eye, zero = torch.eye(4, dtype=torch.float64)[None], torch.zeros(1, 3, dtype=torch.float64)
    K = torch.tensor([[[10.0, 0, 8], [0, 10.0, 8], [0, 0, 1]]], dtype=torch.float64)
    mean, scale = zero + torch.tensor([0.0, 0.0, 2.0]), zero + 0.5
    opacity, quat = torch.tensor([0.8]).double(), torch.tensor([[1.0, 0, 0, 0]]).double()
    picture = oracle(mean, quat, scale, opacity, zero + 1.0, eye, K, 16, 16)
    expected = 0.8 * math.exp(-0.5 * 2 * 1.5**2 / ((10 / 2 * 0.5) ** 2 + 0.3))  # at (9.5, 9.5): 1.5 from (8, 8)
    assert picture[0, 9, 9].tolist() == pytest.approx([expected] * 3 + [2 * expected, expected])


def test_finite_differences_of_a_smooth_scene():
    """Large faint Gaussians in front of the camera: no threshold is near, so the picture is smooth."""
    generator = torch.Generator().manual_seed(2)
    means = 0.1 * torch.randn(6, 3, generator=generator) + torch.tensor([0.0, 0.0, 3.0])
    scales = 1.0 + 0.3 * torch.rand(6, 3, generator=generator)
    leaves = [means, torch.randn(6, 4, generator=generator), scales, 0.3 + 0.2 * torch.rand(6, generator=generator)]
    leaves.append(torch.rand(6, 3, generator=generator))
    K = torch.tensor([[[12.0, 0, 6], [0, 12.0, 5], [0, 0, 1]]])
    weight = torch.rand(1, 10, 12, 4, generator=generator)

    def loss(inputs):
        image, alpha, _ = rasterise(*inputs, torch.eye(4)[None], K, 12, 10, backend="cpu")
        return (torch.cat([image, alpha], dim=-1).double() * weight).sum()

    inputs = [t.clone().requires_grad_() for t in leaves]
    gradients = torch.autograd.grad(loss(inputs), inputs)
    for which, gradient in enumerate(gradients):
        direction = torch.randn(leaves[which].shape, generator=generator)
        ends = []
        for sign in (1, -1):
            moved = [t + sign * 5e-3 * direction if i == which else t for i, t in enumerate(leaves)]
            ends.append(float(loss(moved)))
        slope = (ends[0] - ends[1]) / 1e-2
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=3e-3, abs=3e-3)


def test_agrees_with_the_torch_functions_of_gsplat():
    """Covariance, projection and colour of the installed package, composited here: a further oracle."""
    torch_impl = pytest.importorskip("gsplat.cuda._torch_impl")
    leaves, views = hostile(6, 30, 2, 19, 15)
    means, quats, scales, opacities, _ = (t.double() for t in leaves)
    coefficients = 0.3 * torch.randn(30, 16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    viewmats, Ks = views.world_to_cam.double(), views.intrinsics.double()
    covariances, _ = torch_impl._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
    radii, means2d, depths, conics, _ = torch_impl._fully_fused_projection(
        means, covariances, viewmats, Ks, 19, 15, calc_compensations=False
    )
    centres = -(viewmats[:, :3, :3].transpose(1, 2) @ viewmats[:, :3, 3:])[..., 0]
    directions = means[None] - centres[:, None]
    colors = (torch_impl._spherical_harmonics(3, directions, coefficients.expand(2, -1, -1, -1)) + 0.5).clamp_min(0.0)
    ys, xs = torch.meshgrid(torch.arange(15) + 0.5, torch.arange(19) + 0.5, indexing="ij")
    expected = torch.zeros(2, 15, 19, 3, dtype=torch.float64)
    for camera in range(2):
        left = torch.ones(15, 19, dtype=torch.float64)
        is_done = torch.zeros(15, 19, dtype=torch.bool)
        for i in torch.argsort(depths[camera], stable=True).tolist():
            if (radii[camera, i] <= 0).any():
                continue
            dx, dy = means2d[camera, i, 0] - xs, means2d[camera, i, 1] - ys
            a, b, c = conics[camera, i]
            alpha = (opacities[i] * torch.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy)).clamp_max(ALPHA_MAX)
            alpha = torch.where(alpha < ALPHA_MIN, 0.0, alpha)
            is_done = is_done | (left * (1 - alpha) <= STOP)
            alpha = torch.where(is_done, 0.0, alpha)
            expected[camera] += (left * alpha)[..., None] * colors[camera, i]
            left = left * (1 - alpha)
    arguments = [*leaves[:4], coefficients.float(), views.world_to_cam, views.intrinsics, 19, 15]
    image, _, _ = rasterise(*arguments, sh_degree=3, backend="cpu")
    error = (image - expected).abs().amax(dim=-1)
    assert (error > 1e-4).sum() <= 2 and error.mean() < 1e-5 and expected.max() > 0.5
