"""Coverage by brute force: against ray intersections, exact ties, planes of the view."""

from __future__ import annotations

import pytest
import torch

from renderers.meshes.rasterise import rasterise
from renderers.meshes.reference import visible_faces

BOTH = pytest.mark.parametrize("backend", ["reference", "cpu"])


def rays_hit(clip, faces, size):
    """Return (face, depth) [B, S, S] by solving, for each pixel and face, a b v_a + b_b v_b + b_c v_c = w (X, Y, 1)."""
    batch, best, nearest = clip.shape[0], None, None
    centres = (2 * torch.arange(size, dtype=torch.float64) + 1) / size - 1
    best = torch.full((batch, size, size), -1)
    nearest = torch.full((batch, size, size), torch.inf, dtype=torch.float64)
    for camera in range(batch):
        for f, face in enumerate(faces.tolist()):
            corners = clip[camera, face].double()
            for i in range(size):
                for j in range(size):
                    sight = torch.tensor([centres[j], centres[i], 1.0], dtype=torch.float64)
                    ratio = torch.linalg.solve(corners[:, [0, 1, 3]].T, sight)  # b / w
                    w = 1 / ratio.sum()
                    depth = ratio @ corners[:, 2]
                    if (ratio * w).min() >= 0 and w > 0 and -1 <= depth <= 1 and depth < nearest[camera, i, j]:
                        nearest[camera, i, j], best[camera, i, j] = depth, f
    return best, nearest


@BOTH
def test_faces_and_depths_are_those_of_rays_also_across_the_camera_plane(backend, soup):
    clip, faces = soup(0, faces=12, batch=1)
    corners = clip[0][faces][..., 3]
    assert ((corners > 0).any(1) & (corners < 0).any(1)).sum() >= 3  # the case is in the data
    face, depth = rays_hit(clip, faces, 8)
    got = rasterise(clip, faces, 8, 8, backend)
    assert torch.equal(got.face, face)
    assert (got.face >= 0).sum() > 10
    torch.testing.assert_close(got.depth.double()[face >= 0], depth[face >= 0], rtol=1e-4, atol=1e-5)
    assert (got.depth[face < 0] == 1).all() and (got.barycentric[face < 0] == 0).all()


@BOTH
def test_weights_put_the_hit_point_on_the_line_of_sight(backend, sphere_clip):
    clip, faces = sphere_clip(24)
    got = rasterise(clip, faces, 24, 24, backend)
    camera, i, j = got.mask.nonzero(as_tuple=True)
    corners = clip[camera[:, None], faces[got.face[got.mask]]]
    point = (got.barycentric[got.mask][..., None] * corners).sum(1)
    torch.testing.assert_close(point[:, 0] / point[:, 3], (2 * j + 1) / 24 - 1, rtol=0, atol=1e-5)
    torch.testing.assert_close(point[:, 1] / point[:, 3], (2 * i + 1) / 24 - 1, rtol=0, atol=1e-5)
    torch.testing.assert_close(point[:, 2] / point[:, 3], got.depth[got.mask], rtol=0, atol=1e-5)
    torch.testing.assert_close(got.barycentric[got.mask].sum(-1), torch.ones(len(point)))
    assert got.barycentric.min() >= 0


@BOTH
@pytest.mark.parametrize("turned", [False, True])
def test_pixel_centres_on_shared_edges_belong_to_exactly_one_face(backend, turned, flat):
    # A fan about a pixel centre whose spokes run through pixel centres, with edges along rows and columns. In a picture of
    # 16 pixels all of these numbers are exact in binary, so that edge functions are exactly 0.
    spokes = [[4.5, 0.5], [8.5, 0.5], [8.5, 4.5], [8.5, 8.5], [4.5, 8.5], [0.5, 8.5], [0.5, 4.5], [0.5, 0.5]]
    clip = flat([[4.5, 4.5], *spokes], 16, torch.float32)
    faces = torch.tensor([[0, 1 + k, 1 + (k + 1) % 8] for k in range(8)])
    faces = faces.flip(1) if turned else faces
    hits = sum(rasterise(clip, faces[k : k + 1], 16, 16, backend).mask.int() for k in range(8))
    # Left and top rim are inside, right and bottom rim are not.
    expected = torch.zeros(1, 16, 16, dtype=torch.int32)
    expected[:, :8, :8] = 1
    assert torch.equal(hits, expected)


@BOTH
def test_no_cracks_in_a_tilted_grid(backend):
    generator = torch.Generator().manual_seed(1)
    n = 7
    grid = torch.stack(torch.meshgrid(torch.linspace(-1.5, 1.5, n), torch.linspace(-1.5, 1.5, n), indexing="xy"), -1)
    grid = grid + 0.05 * torch.randn(grid.shape, generator=generator)
    w = 1 + 0.3 * torch.rand(n, n, 1, generator=generator)
    clip = torch.cat([grid * w, torch.zeros_like(w), w], -1).view(1, -1, 4)
    a = (torch.arange(n - 1)[:, None] * n + torch.arange(n - 1)).flatten()
    faces = torch.cat([torch.stack([a, a + 1, a + n], 1), torch.stack([a + 1, a + n + 1, a + n], 1)])
    hits = sum(rasterise(clip, face[None], 33, 33, backend).mask.int() for face in faces)
    assert (hits == 1).all()


@BOTH
def test_near_and_far_planes_cut_single_pixels(backend):
    # z / w runs from -2 at the left to 2 at the right: only the middle half is between the planes.
    clip = torch.tensor([[[-1.0, -3, -2, 1], [1.0, -3, 2, 1], [1.0, 3, 2, 1], [-1.0, 3, -2, 1]]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    mask = rasterise(clip, faces, 8, 16, backend).mask[0]
    assert torch.equal(mask, torch.tensor([False] * 4 + [True] * 8 + [False] * 4).expand(8, 16))


@BOTH
def test_nothing_of_a_mesh_behind_the_camera_or_of_faces_without_area(backend, sphere_clip, flat):
    clip, faces = sphere_clip(8)
    assert not rasterise(-clip, faces, 8, 8, backend).mask.any()
    line = flat([[0, 0], [4, 4], [8, 8]], 8, torch.float32)
    point = flat([[4.5, 4.5]] * 3, 8, torch.float32)
    for degenerate in (line, point):
        assert not rasterise(degenerate, torch.tensor([[0, 1, 2]]), 8, 8, backend).mask.any()
    assert not rasterise(line, torch.tensor([[0, 0, 2]]), 8, 8, backend).mask.any()


@BOTH
def test_a_huge_face_covers_everything_with_exact_weights(backend):
    clip = torch.tensor([[[-3e6, -1e6, 0, 1], [3e6, -1e6, 0, 1], [0, 3e6, 0, 1]]])
    got = rasterise(clip, torch.tensor([[0, 1, 2]]), 6, 6, backend)
    assert got.mask.all()
    torch.testing.assert_close(got.barycentric[0, 3, 3], torch.tensor([0.375, 0.375, 0.25]), rtol=1e-5, atol=1e-5)


@BOTH
def test_the_order_of_faces_does_not_matter(backend, soup):
    clip, faces = soup(2)
    order = torch.randperm(len(faces), generator=torch.Generator().manual_seed(3))
    one = rasterise(clip, faces, 20, 24, backend)
    other = rasterise(clip, faces[order], 20, 24, backend)
    mask = one.mask
    assert torch.equal(mask, other.mask) and torch.equal(one.face[mask], order[other.face[mask]])
    assert torch.equal(one.barycentric, other.barycentric) and torch.equal(one.depth, other.depth)


@BOTH
def test_of_faces_in_the_same_place_the_first_is_seen(backend, flat):
    clip = flat([[0, 0], [8, 0], [0, 8]], 8, torch.float32)
    faces = torch.tensor([[0, 1, 2], [1, 2, 0], [0, 2, 1]])
    face = rasterise(clip, faces, 8, 8, backend).face
    assert set(face.unique().tolist()) == {-1, 0}


def test_chunks_do_not_matter(soup, monkeypatch):
    clip, faces = soup(4)
    whole = visible_faces(clip, faces, 9, 9)
    monkeypatch.setattr("renderers.meshes.reference.CHUNK", 2 * 81 * 7)
    assert torch.equal(visible_faces(clip, faces, 9, 9), whole)
