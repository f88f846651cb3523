"""Silhouettes: coverage of known shapes, and gradients that are derivatives of areas."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.meshes import silhouettes
from renderers.meshes.antialias import antialias
from renderers.meshes.clip import clip_from
from renderers.meshes.edges import neighbours
from renderers.meshes.interpolate import interpolate
from renderers.meshes.rasterise import rasterise
from sds3d.cameras import turntable
from sds3d.errors import ShapeError

QUAD = torch.tensor([[0, 1, 2], [0, 2, 3]])


def coverage(clip, faces, size, **options):
    drawn = rasterise(clip, faces, size, size)
    return antialias(drawn.mask[..., None].to(clip.dtype), drawn, clip, faces, **options)


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


@pytest.mark.parametrize("shift", [0.1, 0.3, 0.45, 0.7, 0.95])
def test_pixels_of_an_axis_aligned_edge_hold_their_exact_coverage(shift, flat):
    for dtype in (torch.float32, torch.float64):
        image = coverage(flat(box(3 + shift, -5, 9 + shift, 20), 16, dtype), QUAD, 16)[0, 8, :, 0]
        expected = torch.zeros(16, dtype=dtype)
        expected[4:9] = 1
        expected[3], expected[9] = 1 - shift, shift
        torch.testing.assert_close(image, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shift", [0.0, 0.2, 0.6, 0.9])
def test_moving_an_edge_moves_area_by_its_length(shift, flat):
    # Rows 2 to 6 have their centres inside: five of them, and the edge is five pixels long.
    clip = flat(box(3.2, 2.25, 9.2 + shift, 7.25), 16).requires_grad_()
    coverage(clip, QUAD, 16).sum().backward()
    per_pixel = clip.grad[0] * 2 / 16
    assert per_pixel[[1, 2], 0].sum() == pytest.approx(5.0)
    assert per_pixel[[0, 3], 0].sum() == pytest.approx(-5.0)
    assert per_pixel[:, 2].abs().max() == 0


def test_gradient_is_that_of_the_area_of_a_turned_polygon(flat):
    # Against the analytic derivative of the shoelace formula, and against differences of a supersampled coverage.
    points = torch.tensor([[10.3, 20.1], [40.2, 8.7], [55.4, 38.9], [24.8, 52.3]], dtype=torch.float64)
    clip = flat(points.tolist(), 64).requires_grad_()
    coverage(clip, QUAD, 64).sum().backward()
    got = clip.grad[0, :, :2] * 2 / 64
    following, previous = points.roll(-1, 0), points.roll(1, 0)
    analytic = 0.5 * torch.stack([following[:, 1] - previous[:, 1], previous[:, 0] - following[:, 0]], 1)
    assert (got - analytic).norm() < 0.05 * analytic.norm()

    def area(moved):
        fine = flat((moved * 16).tolist(), 1024, torch.float32)
        return rasterise(fine, QUAD, 1024, 1024).mask.sum().item() / 256

    for vertex, axis in ((0, 0), (2, 1)):
        step = torch.zeros_like(points)
        step[vertex, axis] = 0.5
        assert area(points + step) - area(points - step) == pytest.approx(
            got[vertex, axis].item(), abs=0.6
        )  # of edges over 30 px


def test_an_edge_in_front_of_another_surface_moves_between_their_colours(flat):
    back, front = flat(box(-1, -1, 17, 17), 16), flat(box(4.2, 4.25, 9.7, 9.25), 16)
    back[..., 2], front[..., 2] = 0.5, -0.5
    clip = torch.cat([back, front], 1).requires_grad_()
    faces = torch.cat([QUAD, QUAD + 4])
    drawn = rasterise(clip, faces, 16, 16)
    shade = torch.where(drawn.face >= 2, 0.9, 0.2).double()[..., None]
    antialias(shade, drawn, clip, faces).sum().backward()
    per_pixel = clip.grad[0] * 2 / 16
    assert per_pixel[[5, 6], 0].sum() == pytest.approx(5 * 0.7)
    assert per_pixel[:4].abs().max() == 0


def test_edges_inside_a_surface_change_nothing(sphere_clip, flat):
    clip = flat([[-1, -1], [17, -1], [17, 17], [-1, 17]], 16)
    drawn = rasterise(clip, QUAD, 16, 16)
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.equal(antialias(image, drawn, clip, QUAD), image)
    clip, faces = sphere_clip(16)  # inside of the rim nothing folds
    drawn = rasterise(clip, faces, 16, 16)
    image = torch.rand(2, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    changed = (antialias(image, drawn, clip, faces) != image).any(-1)
    mask = drawn.mask.float()[:, None]
    wide = torch.nn.functional.max_pool2d(mask, 3, 1, 1) - (1 - torch.nn.functional.max_pool2d(1 - mask, 3, 1, 1))
    assert changed.any() and not (changed & (wide[:, 0] == 0)).any()


def test_the_image_gets_its_exact_gradient(sphere_clip):
    clip, faces = sphere_clip(9, views=1, subdivisions=1, dtype=torch.float64)
    drawn = rasterise(clip, faces, 9, 9)
    generator = torch.Generator().manual_seed(2)
    image, change, upstream = torch.rand(3, 1, 9, 9, 2, generator=generator, dtype=torch.float64)
    image.requires_grad_()
    (antialias(image, drawn, clip, faces) * upstream).sum().backward()
    # The blend is linear in the image.
    moved = antialias(image + change, drawn, clip, faces) - antialias(image, drawn, clip, faces)
    torch.testing.assert_close((image.grad * change).sum(), (moved * upstream).sum().detach())
    assert not torch.allclose(image.grad, upstream)
    # What one pixel gains by mixing it also loses: a constant image stays constant.
    assert torch.equal(antialias(torch.ones_like(image), drawn, clip, faces), torch.ones_like(image))


def test_clip_coordinates_get_the_gradient_of_the_blend(sphere_clip):
    clip, faces = sphere_clip(11, views=2, subdivisions=1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    clip = (clip + 0.02 * torch.randn(clip.shape, generator=generator, dtype=torch.float64)).requires_grad_()
    drawn = rasterise(clip, faces, 11, 11)
    image, upstream = torch.rand(2, 2, 11, 11, 1, generator=generator, dtype=torch.float64)
    (antialias(image, drawn, clip, faces) * upstream).sum().backward()
    assert clip.grad.abs().sum() > 1
    for _ in range(4):
        step = 1e-6 * torch.randn(clip.shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            later, before = (antialias(image, drawn, clip + sign * step, faces) for sign in (1, -1))
            difference = ((later - before) * upstream).sum()
        torch.testing.assert_close((clip.grad * 2 * step).sum(), difference, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("subdivisions", [2, 4])
def test_the_rim_of_a_sphere_moves_as_the_area_of_its_disc(subdivisions, sphere):
    # From distance d a sphere of radius r appears as a disc of radius f r / sqrt(d^2 - r^2) pixels.
    size, distance, radius = 48, 2.5, 0.8
    vertices, faces = sphere(subdivisions, radius)
    scale = torch.ones((), requires_grad=True)
    clip = clip_from(turntable(2, size, distance=distance), vertices * scale)
    image = coverage(clip, faces, size)
    image.sum().backward()
    focal = size / 2 / math.tan(math.radians(22.5))
    area = 2 * math.pi * (focal * radius) ** 2 / (distance**2 - radius**2)
    slope = 2 * area * distance**2 / (distance**2 - radius**2)
    assert image.sum().item() == pytest.approx(area, rel=0.03)
    assert scale.grad.item() == pytest.approx(slope, rel=0.06)
    if subdivisions == 4:  # looking at the pixel's own face only loses nearly all of it
        alone = torch.ones((), requires_grad=True)
        clip = clip_from(turntable(2, size, distance=distance), vertices * alone)
        coverage(clip, faces, size, steps=1).sum().backward()
        assert alone.grad.item() < 0.3 * slope


def pairs(found):
    ends = torch.stack([torch.minimum(found.begin, found.end), torch.maximum(found.begin, found.end)])
    rows = torch.stack([found.near, found.far, *ends], 1)
    return set(map(tuple, rows[found.is_found].tolist()))


@pytest.mark.parametrize("steps", [1, 3, 32])
def test_compiled_walks_equal_the_plain_ones(steps, sphere_clip, soup):
    for clip, faces in (sphere_clip(24, subdivisions=2), soup(7, faces=80)):
        drawn = rasterise(clip, faces, 24, 24)
        beyond = neighbours(faces)
        fast = pairs(silhouettes.find(drawn, clip, faces, beyond, steps))
        plain = pairs(silhouettes.find_reference(drawn, clip, faces, beyond, steps))
        assert len(plain) > 10 and fast == plain


def test_neither_the_order_nor_the_winding_of_faces_matters(sphere_clip):
    clip, faces = sphere_clip(24, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    expected = coverage(clip, faces, 24)
    order = torch.randperm(len(faces), generator=generator)
    torch.testing.assert_close(coverage(clip, faces[order], 24), expected)
    turned = torch.where(torch.rand(len(faces), 1, generator=generator) < 0.5, faces, faces.flip(1))
    torch.testing.assert_close(coverage(clip, turned, 24), expected)


def test_kept_neighbours_give_the_same_picture_and_wrong_ones_an_error(sphere_clip):
    clip, faces = sphere_clip(16)
    assert torch.equal(coverage(clip, faces, 16, beyond=neighbours(faces)), coverage(clip, faces, 16))
    with pytest.raises(ShapeError, match=r"beyond has shape \[2, 3\], but \[320, 3\] is needed"):
        coverage(clip, faces, 16, beyond=QUAD)
    drawn = rasterise(clip, faces, 16, 16)
    with pytest.raises(ShapeError, match=r"image has shape \[2, 8, 16, 1\], but \[2, 16, 16, K\]"):
        antialias(torch.zeros(2, 8, 16, 1), drawn, clip, faces)


def test_faces_with_vertices_of_their_own_have_the_same_outline(sphere_clip):
    """As files have them at hard edges: with the neighbours of the welded faces nothing differs, without them all edges end."""
    for dtype in (torch.float32, torch.float64):
        clip, faces = sphere_clip(24, dtype=dtype)
        apart = clip[:, faces.flatten()], torch.arange(faces.numel()).view(-1, 3)
        expected = coverage(clip, faces, 24)
        torch.testing.assert_close(coverage(*apart, 24, beyond=neighbours(faces)), expected)
        assert (coverage(*apart, 24) - expected).abs().max() > 0.1


def test_a_mesh_without_faces_has_an_image_and_a_gradient():
    clip = torch.rand(2, 4, 4, requires_grad=True)
    faces = torch.zeros(0, 3, dtype=torch.int64)
    drawn = rasterise(clip, faces, 5, 6)
    image = antialias(interpolate(torch.rand(4, 3), faces, drawn), drawn, clip, faces)
    assert image.shape == (2, 5, 6, 3) and not image.any() and not drawn.mask.any()
    (image.sum() + drawn.depth.sum() + drawn.barycentric.sum()).backward()
    assert torch.equal(clip.grad, torch.zeros_like(clip))
