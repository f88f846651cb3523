"""Baking: colours read back from the texture equal the function within the stated bound, seams do not show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.meshing.bake import bake, bake_image, find_texels, paint, sample
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.topology import pieces
from sds3d.meshing.unwrap import probe_xatlas, unwrap

needs_xatlas = pytest.mark.skipif(probe_xatlas() != "available", reason=probe_xatlas())
SIZE = 512


def on_surface(
    mesh: Mesh, count: int, seed: int = 0, at_edge: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return faces, world points and texture coordinates of random points, on the edges of faces if asked."""
    assert mesh.uvs is not None and mesh.uv_faces is not None
    rng = np.random.default_rng(seed)
    face, weight = rng.integers(0, len(mesh.faces), count), rng.dirichlet([1.0, 1.0, 1.0], count)
    if at_edge:
        weight[np.arange(count), rng.integers(0, 3, count)] = 0.0
        weight /= weight.sum(axis=1, keepdims=True)
    points = np.einsum("nk,nkd->nd", weight, mesh.vertices[mesh.faces[face]])
    return face, points, np.einsum("nk,nkd->nd", weight, mesh.uvs[mesh.uv_faces[face]])


def largest_texel(mesh: Mesh, size: int) -> float:
    """Return the longest way in the world, over all faces, that one texel can make."""
    assert mesh.uvs is not None and mesh.uv_faces is not None
    corners, places = mesh.vertices[mesh.faces].astype(float), mesh.uvs[mesh.uv_faces].astype(float) * size
    world = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)
    flat = np.stack([places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]], axis=2)
    return float(np.linalg.svd(world @ np.linalg.inv(flat), compute_uv=False).max())


@pytest.mark.parametrize("method", [pytest.param("xatlas", marks=needs_xatlas), "cells"])
def test_read_back_within_the_bound(mug: Mesh, rainbow: Callable, method: str) -> None:
    baked = bake(unwrap(mug, SIZE, method=method).mesh, rainbow, SIZE)
    assert baked.overlap == 0.0 and baked.mesh.material is not None and baked.mesh.is_textured
    bound = 2.0 * 2.0 * np.sqrt(2.0) * largest_texel(baked.mesh, SIZE)  # slope 2, way of 2 sqrt(2) texels
    for at_edge in (False, True):
        _, points, uvs = on_surface(baked.mesh, 5000, at_edge=at_edge)
        error = np.abs(sample(baked.mesh.material.base_color, uvs) - rainbow(points))
        assert error.max() < bound and error.mean() < 0.002
    np.testing.assert_allclose(baked.mesh.colors, rainbow(mug.vertices), atol=1e-6)


@needs_xatlas
def test_charts_keep_their_colour_up_to_mip_level_one(mug: Mesh) -> None:
    """Every chart has a colour of its own: if a look-up touched the neighbour's, or the background, it would show."""
    mesh = unwrap(mug, SIZE).mesh
    assert mesh.uv_faces is not None
    count, chart = pieces(mesh.uv_faces)
    assert count > 5
    colors = np.random.default_rng(1).uniform(size=(count, 3)).astype(np.float32)
    texels = find_texels(mesh, SIZE)
    level0 = paint(texels, colors[chart[texels.faces]])
    level1 = level0.reshape(SIZE // 2, 2, SIZE // 2, 2, 3).mean(axis=(1, 3))
    face, _, uvs = on_surface(mesh, 20000, at_edge=True)
    for level in (level0, level1):
        np.testing.assert_allclose(sample(level, uvs), colors[chart[face]], atol=1e-5)


def square(side: float) -> Mesh:
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    return Mesh(
        corners, np.array([[0, 1, 2], [0, 2, 3]]), np.zeros((4, 3)), corners[:, :2] * side, [[0, 1, 2], [0, 2, 3]]
    )  # type: ignore[arg-type]


def test_coverage_and_orientation_of_a_square() -> None:
    texels = find_texels(square(0.5), 64)
    assert texels.coverage == 0.25 and texels.overlap == 0.0
    image = bake_image(square(1.0), find_texels(square(1.0), 64), lambda p: p)
    # The first row is the top, v = 1; columns run with u. Centres are half a texel in.
    centres = (np.arange(64) + 0.5) / 64
    np.testing.assert_allclose(image[:, :, 0], np.broadcast_to(centres, (64, 64)), atol=1e-5)
    np.testing.assert_allclose(image[:, :, 1], np.broadcast_to(centres[::-1, None], (64, 64)), atol=1e-5)


def test_the_margin_has_the_colour_of_the_nearest_point() -> None:
    image = bake_image(square(0.5), find_texels(square(0.5), 64), lambda p: p)
    np.testing.assert_allclose(image[-10, 34, :2], [1.0, (9.5) / 32], atol=1e-5)  # right of the chart: its right edge
    np.testing.assert_allclose(image[3, 3, 1], 1.0, atol=0.02)  # far above: filled from its upper edge
    assert (image > 0).any(axis=2).all()


def test_sampling_is_bilinear_and_repeats() -> None:
    texture = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    centre = np.array([[0.5 / 3, 0.75], [2.5 / 3, 0.25], [0.5 / 3 + 1, 0.75 - 2]])
    np.testing.assert_allclose(sample(texture, centre)[:, 0], [0, 5, 0], atol=1e-5)
    np.testing.assert_allclose(sample(texture, np.array([[1 / 3, 0.5], [0.0, 0.75]]))[:, 0], [2.0, 1.0], atol=1e-5)


def test_other_channels_are_asked_in_batches(mug: Mesh) -> None:
    mesh, asked = unwrap(mug, 256, method="cells").mesh, []

    def height(points: np.ndarray) -> np.ndarray:
        asked.append(len(points))
        return 2.0 * points[:, 2:]  # beyond [0, 1]: clipped

    image = bake_image(mesh, find_texels(mesh, 256), height, channels=1, batch=1000)
    assert image.shape == (256, 256, 1) and image.min() == 0.0 and image.max() == 1.0
    assert max(asked) == 1000 and len(asked) > 3


def test_wrong_functions_and_meshes_are_said(mug: Mesh) -> None:
    mesh = unwrap(mug, 256, method="cells").mesh
    with pytest.raises(AssetError, match=r"gave \d+ of \d+ values that are not finite"):
        bake(mesh, lambda p: np.where(p > 0.1, p, np.nan), 256)
    with pytest.raises(ShapeError, match="value of the colour function"):
        bake(mesh, lambda p: p[:, 0], 256)
    with pytest.raises(ShapeError, match="unwrap the mesh first"):
        bake(mug, lambda p: p, 256)
    with pytest.raises(ConfigError, match="size is 2, but 4 to 16384"):
        bake(mesh, lambda p: p, 2)
