"""The same GLB in a second foreign reader, where it is installed (`pip install open3d`; it needs libusb-1.0)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sds3d.export.mesh import srgb_to_linear, write_mesh
from sds3d.meshing.mesh import Mesh

CORNERS = np.array([[0.9, 0, 0], [0, 0.6, 0], [0, 0, 0.3], [0, 0, 0]], np.float32)  # front, left, top, origin
FACES = np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]])
COLORS = np.array([[1, 0, 0], [0, 0.5, 0], [0, 0, 0.25], [0.04, 0.9, 1]], np.float32)


def test_open3d_reads_axes_colours_and_a_closed_surface(tmp_path: Path) -> None:
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    path = write_mesh(tmp_path / "m.glb", Mesh(CORNERS, FACES, COLORS))
    mesh = open3d.io.read_triangle_mesh(str(path))
    points, colors = np.asarray(mesh.vertices), np.asarray(mesh.vertex_colors)
    assert mesh.is_watertight() and mesh.is_orientable()
    for corner, color in (([0, 0, 0.9], COLORS[0]), ([0.6, 0, 0], COLORS[1]), ([0, 0.3, 0], COLORS[2])):
        (row,) = np.flatnonzero(np.linalg.norm(points - corner, axis=1) < 1e-5)
        np.testing.assert_allclose(colors[row], srgb_to_linear(color), atol=0.003)


def test_open3d_finds_the_texture_and_no_metal(tmp_path: Path, textured_mug: Mesh) -> None:
    open3d = pytest.importorskip("open3d", exc_type=ImportError)
    path = write_mesh(tmp_path / "t.glb", textured_mug)
    mesh = open3d.io.read_triangle_mesh(str(path), True)
    assert mesh.has_triangle_uvs() and np.asarray(mesh.textures[0]).shape == (256, 256, 3)
    model = open3d.io.read_triangle_model(str(path))
    material = model.materials[model.meshes[0].material_idx]
    assert (material.base_metallic, material.base_roughness) == (0.0, 1.0)
