"""Surfaces that touch themselves are taken apart; decimation reaches its target and stays closed."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from sds3d.export.splats import Splats
from sds3d.meshing import surface
from sds3d.meshing.from_splats import mesh_from_splats
from sds3d.meshing.separate import separate


def blocks(cells: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the outer surface of unit cubes as triangles that share their corners."""
    filled, quads = set(cells), []
    for cell in cells:
        for axis in range(3):
            for side in (0, 1):
                step = np.eye(3, dtype=int)[axis] * (1 if side else -1)
                if tuple(np.array(cell) + step) in filled:
                    continue
                u, v = np.eye(3, dtype=int)[(axis + 1) % 3], np.eye(3, dtype=int)[(axis + 2) % 3]
                base = np.array(cell) + np.eye(3, dtype=int)[axis] * side
                corners = [base, base + u, base + u + v, base + v]
                quads.append(corners if side else corners[::-1])
    points = np.array(quads).reshape(-1, 3)
    vertices, index = np.unique(points, axis=0, return_inverse=True)
    index = index.reshape(-1, 4)
    faces = np.concatenate([index[:, [0, 1, 2]], index[:, [0, 2, 3]]]).astype(np.int64)
    return vertices.astype(np.float64), faces


COLUMNS = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 2)] + [(0, 0, 1), (1, 1, 1)]


@pytest.mark.parametrize(
    ("cells", "pieces"),
    [
        ([(0, 0, 0), (1, 1, 0)], 2),  # share an edge
        ([(0, 0, 0), (1, 1, 1)], 2),  # share a corner
        ([(0, 0, 0), (1, 1, 0), (0, 1, 1), (1, 0, 1)], 4),  # six edges and corners
        (COLUMNS, 1),  # an edge whose two sheets are joined at both ends: it needs a vertex in its middle
    ],
)
def test_touching_blocks_part(cells: list[tuple[int, int, int]], pieces: int) -> None:
    vertices, faces = blocks(cells)
    assert not trimesh.Trimesh(vertices, faces, process=False).is_watertight or len(cells) == 2
    places, parted = separate(vertices, faces)
    assert surface.is_closed(parted)
    merged = trimesh.Trimesh(places, parted, process=True)  # readers that merge equal vertices see the same
    assert merged.is_watertight and merged.is_winding_consistent and merged.body_count == pieces
    # Copies move by 2 % of the way to their neighbours, so a cube keeps at least 0.9 of its volume.
    volume = surface.signed_volume(places, parted)
    assert 0.85 * len(cells) < volume <= len(cells) + 1e-9


def test_a_closed_surface_stays_as_it_is() -> None:
    vertices, faces = blocks([(0, 0, 0), (1, 0, 0)])
    places, parted = separate(vertices, faces)
    assert surface.is_closed(parted) and len(parted) == len(faces)
    np.testing.assert_allclose(places[parted], vertices[faces])


def test_twins_that_face_each_other_and_triangles_without_area_go() -> None:
    vertices, faces = blocks([(0, 0, 0)])
    flap = np.array([[0, 7, 5], [0, 5, 7], [3, 3, 1]])
    _, parted = separate(vertices, np.concatenate([faces, flap]))
    assert surface.is_closed(parted) and len(parted) == len(faces)
    assert len(separate(vertices, flap)[1]) == 0


def rough_cloud(seed: int) -> Splats:
    """Return Gaussians whose surface has many pieces, handles and thin places."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(300, 3)) * 0.3
    log_scales = np.log(0.05) + 0.3 * rng.normal(size=(300, 3))
    return Splats(means, rng.normal(size=(300, 4)), log_scales, rng.normal(1, 1, 300), rng.normal(size=(300, 3)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("target", [400, 3000])
def test_rough_surfaces_reach_the_target_and_stay_closed(seed: int, target: int) -> None:
    fine = mesh_from_splats(rough_cloud(seed), resolution=40, target_faces=10**6)
    mesh = mesh_from_splats(rough_cloud(seed), resolution=40, target_faces=target)
    assert len(fine.faces) > 3 * target and 0.8 * target < len(mesh.faces) <= 1.2 * target
    merged = trimesh.Trimesh(mesh.vertices, mesh.faces, process=True)
    assert merged.is_watertight and merged.is_winding_consistent
    volume, wanted = (surface.signed_volume(m.vertices, m.faces) for m in (mesh, fine))
    assert volume == pytest.approx(wanted, rel=0.12)
    near = trimesh.sample.sample_surface(merged, 300, seed=0)[0]
    distance = np.linalg.norm(near[:, None] - fine.vertices[None], axis=2).min(axis=1)
    assert np.percentile(distance, 95) < 0.06  # two to three cells
