"""A small z-buffer renderer for toybox objects: the ground truth of colour, alpha, depth, normal, albedo and parts.

Numba kernels on one thread (batches are split over processes by the caller). Shading is a headlight, an ambient term and a
weak sky, two-sided, without cast shadows: colour * (0.38 + 0.47 |n.v| + 0.15 (0.5 + 0.5 n_z)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sds3d.toybox.shape import ToyMesh

AMBIENT, HEADLIGHT, SKY = 0.38, 0.47, 0.15
SUPERSAMPLE = 2
"""Samples along each axis of a pixel."""


@dataclass
class View:
    """One rendered view of H x W pixels; all but `alpha` and `part` are averages over the covered samples.

    Args:
        rgb: [H, W, 3] float32 shaded sRGB in [0, 1], not premultiplied (0 where nothing is). alpha: [H, W] coverage.
        depth: [H, W] camera z. normal: [H, W, 3] world frame, facing the camera. albedo: [H, W, 3].
        part: [H, W] int16 index into the mesh's `part_names` of the nearest sample, -1 outside.
    """

    rgb: NDArray[np.float32]
    alpha: NDArray[np.float32]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]
    albedo: NDArray[np.float32]
    part: NDArray[np.int16]


@numba.njit(cache=True, fastmath=True, nogil=True)
def _zbuffer(corners, world_to_cam, focal, size):  # type: ignore[no-untyped-def]
    """Return the face index [size, size] (-1 = none) and 1/z with two perspective-correct barycentrics."""
    face = np.full((size, size), -1, np.int32)
    inverse_depth = np.zeros((size, size), np.float32)
    bary = np.zeros((size, size, 2), np.float32)
    centre = 0.5 * size
    px, py, pz = np.empty(3), np.empty(3), np.empty(3)
    for f in range(corners.shape[0]):
        behind = False
        for k in range(3):
            x, y, z = corners[f, k, 0], corners[f, k, 1], corners[f, k, 2]
            cz = world_to_cam[2, 0] * x + world_to_cam[2, 1] * y + world_to_cam[2, 2] * z + world_to_cam[2, 3]
            if cz < 0.05:
                behind = True
                break
            cx = world_to_cam[0, 0] * x + world_to_cam[0, 1] * y + world_to_cam[0, 2] * z + world_to_cam[0, 3]
            cy = world_to_cam[1, 0] * x + world_to_cam[1, 1] * y + world_to_cam[1, 2] * z + world_to_cam[1, 3]
            pz[k] = 1.0 / cz
            px[k] = focal * cx * pz[k] + centre - 0.5
            py[k] = focal * cy * pz[k] + centre - 0.5
        if behind:
            continue
        area = (px[1] - px[0]) * (py[2] - py[0]) - (px[2] - px[0]) * (py[1] - py[0])
        if abs(area) < 1e-9:
            continue
        x0 = max(0, int(np.ceil(min(px[0], px[1], px[2]))))
        x1 = min(size - 1, int(np.floor(max(px[0], px[1], px[2]))))
        y0 = max(0, int(np.ceil(min(py[0], py[1], py[2]))))
        y1 = min(size - 1, int(np.floor(max(py[0], py[1], py[2]))))
        for i in range(y0, y1 + 1):
            for j in range(x0, x1 + 1):
                w1 = ((j - px[0]) * (py[2] - py[0]) - (px[2] - px[0]) * (i - py[0])) / area
                w2 = ((px[1] - px[0]) * (i - py[0]) - (j - px[0]) * (py[1] - py[0])) / area
                w0 = 1.0 - w1 - w2
                if w0 < 0.0 or w1 < 0.0 or w2 < 0.0:
                    continue
                inverse = w0 * pz[0] + w1 * pz[1] + w2 * pz[2]
                if inverse > inverse_depth[i, j]:
                    inverse_depth[i, j] = inverse
                    face[i, j] = f
                    bary[i, j, 0] = w1 * pz[1] / inverse
                    bary[i, j, 1] = w2 * pz[2] / inverse
    return face, inverse_depth, bary


@numba.njit(cache=True, fastmath=True, nogil=True)
def _shade(face, inverse_depth, bary, corners, normals, colors, stripes, band, bottom, eye, samples):  # type: ignore[no-untyped-def]
    """Return [H, W, 11]: coverage, shaded rgb, albedo rgb, depth, normal xyz, each summed over covered samples / all."""
    size = face.shape[0] // samples
    out = np.zeros((size, size, 11), np.float32)
    share = 1.0 / (samples * samples)
    for i in range(face.shape[0]):
        for j in range(face.shape[1]):
            f = face[i, j]
            if f < 0:
                continue
            b1, b2 = bary[i, j, 0], bary[i, j, 1]
            b0 = 1.0 - b1 - b2
            n = np.empty(3, np.float32)
            v = np.empty(3, np.float32)
            nn, vv = np.float32(0.0), np.float32(0.0)
            height = np.float32(0.0)
            for k in range(3):
                n[k] = b0 * normals[f, 0, k] + b1 * normals[f, 1, k] + b2 * normals[f, 2, k]
                p = b0 * corners[f, 0, k] + b1 * corners[f, 1, k] + b2 * corners[f, 2, k]
                height = p
                v[k] = eye[k] - p
                nn += n[k] * n[k]
                vv += v[k] * v[k]
            cosine = (n[0] * v[0] + n[1] * v[1] + n[2] * v[2]) / np.sqrt(nn * vv + 1e-20)
            flip = np.float32(1.0) if cosine >= 0.0 else np.float32(-1.0)
            scale = flip / np.sqrt(nn + 1e-20)
            light = AMBIENT + HEADLIGHT * abs(cosine) + SKY * (0.5 + 0.5 * n[2] * scale)
            # A hair below the exact boundary, so that a flat top on it is one colour.
            banded = band > 0.0 and int(max(0.0, (height - bottom) / band - 1e-3)) % 2 == 1
            y, x = i // samples, j // samples
            out[y, x, 0] += share
            for k in range(3):
                albedo = stripes[f, k] if banded else colors[f, k]
                out[y, x, 1 + k] += share * min(1.0, albedo * light)
                out[y, x, 4 + k] += share * albedo
                out[y, x, 8 + k] += share * n[k] * scale
            out[y, x, 7] += share / inverse_depth[i, j]
    return out


def _raw(mesh: ToyMesh, cam_to_world: NDArray[np.float32], fov_deg: float, size: int):  # type: ignore[no-untyped-def]
    world_to_cam = np.linalg.inv(cam_to_world.astype(np.float64))
    fine = size * SUPERSAMPLE
    focal = 0.5 * fine / np.tan(np.radians(fov_deg) / 2)
    face, inverse_depth, bary = _zbuffer(mesh.corners, world_to_cam, focal, fine)
    eye = cam_to_world[:3, 3].astype(np.float32)
    bottom = float(mesh.corners[..., 2].min())
    planes = _shade(
        face, inverse_depth, bary, mesh.corners, mesh.normals, mesh.colors, mesh.stripe_colors,
        mesh.band_height, bottom, eye, SUPERSAMPLE,
    )  # fmt: skip
    return planes, face, inverse_depth


def render_rgba(
    mesh: ToyMesh, cam_to_world: NDArray[np.float32], size: int, fov_deg: float = 45.0
) -> NDArray[np.uint8]:
    """Return [size, size, 4] premultiplied sRGB + alpha as 8 bit; `cam_to_world` [4, 4] has OpenCV axes."""
    planes, _, _ = _raw(mesh, cam_to_world, fov_deg, size)
    return (planes[..., [1, 2, 3, 0]] * 255.0 + 0.5).astype(np.uint8)


def render_view(mesh: ToyMesh, cam_to_world: NDArray[np.float32], size: int, fov_deg: float = 45.0) -> View:
    """Return every ground-truth plane of one view of `size` x `size` pixels; `cam_to_world` [4, 4] has OpenCV axes."""
    planes, face, inverse_depth = _raw(mesh, cam_to_world, fov_deg, size)
    covered = planes[..., :1]
    mean = planes / np.maximum(covered, 1e-6)
    blocks = (size, SUPERSAMPLE, size, SUPERSAMPLE)
    order = (0, 2, 1, 3)
    near = inverse_depth.reshape(blocks).transpose(order).reshape(size, size, -1)
    ids = face.reshape(blocks).transpose(order).reshape(size, size, -1)
    nearest = np.take_along_axis(ids, near.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    length = np.linalg.norm(mean[..., 8:11], axis=-1, keepdims=True)
    return View(
        rgb=mean[..., 1:4],
        alpha=covered[..., 0],
        depth=mean[..., 7],
        normal=mean[..., 8:11] / np.maximum(length, 1e-6),
        albedo=mean[..., 4:7],
        part=np.where(nearest >= 0, mesh.parts[np.maximum(nearest, 0)], -1).astype(np.int16),
    )
