"""Unwrapping: charts that do not overlap, little stretch, and a fallback that says why."""

from __future__ import annotations

import numpy as np
import pytest

from sds3d.errors import AssetError, BackendError, ConfigError
from sds3d.meshing import unwrap as module
from sds3d.meshing.bake import find_texels
from sds3d.meshing.mesh import Mesh
from sds3d.meshing.unwrap import probe_xatlas, unwrap

needs_xatlas = pytest.mark.skipif(probe_xatlas() != "available", reason=probe_xatlas())
METHODS = [pytest.param("xatlas", marks=needs_xatlas), "cells"]


def stretches(mesh: Mesh) -> np.ndarray:
    """Singular values [F, 2] of the map from texture to world of each face, largest first."""
    assert mesh.uvs is not None and mesh.uv_faces is not None
    corners, places = mesh.vertices[mesh.faces].astype(float), mesh.uvs[mesh.uv_faces].astype(float)
    world = np.stack([corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]], axis=2)
    flat = np.stack([places[:, 1] - places[:, 0], places[:, 2] - places[:, 0]], axis=2)
    return np.linalg.svd(world @ np.linalg.inv(flat), compute_uv=False)


@pytest.mark.parametrize("method", METHODS)
def test_charts_do_not_overlap_and_lie_in_the_picture(mug: Mesh, method: str) -> None:
    made = unwrap(mug, 512, method=method)
    assert made.method == method and made.reason == ""
    assert made.mesh.uvs is not None and made.mesh.uvs.min() >= 0.0 and made.mesh.uvs.max() <= 1.0
    np.testing.assert_array_equal(made.mesh.faces, mug.faces)
    texels = find_texels(made.mesh, 512)
    assert texels.overlap == 0.0 and texels.coverage > 0.3


def test_overlaps_would_be_seen(mug: Mesh) -> None:
    made = unwrap(mug, 512, method="cells").mesh
    assert made.uvs is not None
    shrunk = Mesh(made.vertices, made.faces, made.colors, made.uvs % 0.25, made.uv_faces)
    assert find_texels(shrunk, 512).overlap > 0.1


@needs_xatlas
def test_xatlas_stretches_little_and_cuts_seldom(mug: Mesh) -> None:
    made = unwrap(mug, 512)
    large, small = stretches(made.mesh).T
    assert made.method == "xatlas" and made.charts < 60
    assert np.median(large / small) < 1.2 and np.median(large) / np.percentile(large, 5) < 1.6


@needs_xatlas
def test_faces_without_area_take_the_colour_of_a_neighbour(box: Mesh) -> None:
    """xatlas puts such a face into the corner of the picture: here it must show one of its own vertices."""
    a, b, c = box.faces[0]
    tip = box.vertices[[a]] * 0.5 + box.vertices[[b]] * 0.5
    faces = np.concatenate([box.faces[1:], [[a, 8, c], [8, b, c], [a, b, 8]]])  # the last one lies on an edge
    mesh = Mesh(np.concatenate([box.vertices, tip]), faces, np.zeros((9, 3)))
    made = unwrap(mesh, 128, method="xatlas").mesh
    assert made.uvs is not None and made.uv_faces is not None
    assert np.ptp(made.uvs[made.uv_faces[-1]], axis=0).max() == 0.0  # it was left out
    shown = {int(made.faces[face, corner]) for face, corner in np.argwhere(made.uv_faces == made.uv_faces[-1, 0])[:-3]}
    assert shown <= {a, b, 8} and shown


def test_cells_suit_right_triangles() -> None:
    """A right-angled isosceles triangle is shown without stretch, whichever corner comes first."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    for shift in range(3):
        mesh = Mesh(np.roll(corners, shift, axis=0), np.array([[0, 1, 2], [0, 1, 2]]), np.zeros((3, 3)))
        np.testing.assert_allclose(np.ptp(stretches(unwrap(mesh, 64, method="cells").mesh), axis=1), 0.0, atol=1e-6)


def test_the_fallback_says_why(mug: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unwrap(mug, 256, max_faces=100).reason == "1056 faces are more than the 100 that are given to xatlas"
    monkeypatch.setattr(module, "probe_xatlas", lambda: "available")
    for worker, reason in (
        ("import os; os.abort()", "it ended with code"),
        ("raise RuntimeError('no')", "RuntimeError: no"),
        ("import time; time.sleep(9)", "it took longer than 0.3 s"),
    ):
        monkeypatch.setattr(module, "_WORKER", worker)
        made = unwrap(mug, 256, seconds=0.3 if "sleep" in worker else 60)
        assert made.method == "cells" and reason in made.reason
    with pytest.raises(AssetError, match="xatlas could not unwrap the mesh of 1056 faces"):
        unwrap(mug, 256, method="xatlas", seconds=0.3)
    monkeypatch.setattr(module, "probe_xatlas", lambda: "the package xatlas is not installed: pip install xatlas")
    assert "not installed" in unwrap(mug, 256).reason
    with pytest.raises(
        BackendError, match="Unwrapping by xatlas was asked for, but the package xatlas is not installed"
    ):
        unwrap(mug, 256, method="xatlas")


def test_wrong_arguments_are_said(mug: Mesh) -> None:
    with pytest.raises(ConfigError, match="size is 4, but 16 to 16384"):
        unwrap(mug, 4)
    with pytest.raises(ConfigError, match="method is 'lscm', but auto, xatlas, cells"):
        unwrap(mug, method="lscm")
    with pytest.raises(
        ConfigError, match=r"leaves 1.8 texels for each of 1056 faces, but 4 are needed: .* a texture of 140"
    ):
        unwrap(mug, 64, method="cells")
    assert unwrap(mug, 140, method="cells").charts == 1056  # the advice holds
    with pytest.raises(AssetError, match="has 0 faces and 0 vertices that are not finite"):
        unwrap(Mesh(mug.vertices, mug.faces[:0], mug.colors))
    with pytest.raises(AssetError, match="1 vertices that are not finite"):
        unwrap(Mesh(np.where(np.arange(len(mug.vertices))[:, None] == 3, np.nan, mug.vertices), mug.faces, mug.colors))
