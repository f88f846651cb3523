"""The compiled back end equals the plain one: faces, weights, gradients, and for any number of threads."""

from __future__ import annotations

import pytest
import torch

from renderers.gaussians import workers
from renderers.meshes import cpu, silhouettes
from renderers.meshes.edges import neighbours
from renderers.meshes.interpolate import interpolate, weighted
from renderers.meshes.rasterise import rasterise
from renderers.meshes.surface import pixel_derivatives

BAND = 2e-4
"""Share of pixels that may see another face than the reference (none did when this was written)."""


def scenes(soup, sphere_clip):
    return {"soup": soup(0, faces=200), "sphere": sphere_clip(48, subdivisions=3)}


@pytest.mark.parametrize("name", ["soup", "sphere"])
def test_equals_the_reference_but_for_a_counted_band(name, soup, sphere_clip):
    clip, faces = scenes(soup, sphere_clip)[name]
    fast = rasterise(clip, faces, 40, 56, "cpu")
    plain = rasterise(clip.double(), faces, 40, 56, "reference")
    same = fast.face == plain.face
    assert (~same).sum() <= BAND * same.numel()
    assert plain.mask.float().mean() > 0.2
    torch.testing.assert_close(fast.barycentric[same].double(), plain.barycentric[same], rtol=0, atol=2e-6)
    torch.testing.assert_close(fast.depth[same].double(), plain.depth[same], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", ["soup", "sphere"])
def test_gradients_equal_those_of_the_reference(name, soup, sphere_clip):
    clip, faces = scenes(soup, sphere_clip)[name]
    fast_clip, plain_clip = clip.clone().requires_grad_(), clip.double().requires_grad_()
    fast = rasterise(fast_clip, faces, 32, 32, "cpu")
    plain = rasterise(plain_clip, faces, 32, 32, "reference")
    assert torch.equal(fast.face, plain.face)
    generator = torch.Generator().manual_seed(1)
    g_weights = torch.randn(*fast.face.shape, 3, generator=generator)
    g_depth = torch.randn(fast.face.shape, generator=generator)
    # Pixels that graze a face have unbounded derivatives; a bound on them would hide everything else.
    share = plain.barycentric.detach().abs().amax(-1) < 2
    g_weights, g_depth = g_weights * share[..., None], g_depth * share
    ((fast.barycentric * g_weights).sum() + (fast.depth * g_depth).sum()).backward()
    ((plain.barycentric * g_weights).sum() + (plain.depth * g_depth).sum()).backward()
    expected = plain_clip.grad
    assert expected.abs().sum() > 1
    assert (fast_clip.grad - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("missing", ["weights", "depth"])
def test_gradient_of_one_output_alone(missing, sphere_clip):
    clip, faces = sphere_clip(16)
    gradients = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        given = clip.clone().to(dtype).requires_grad_()
        drawn = rasterise(given, faces, 16, 16, backend)
        (drawn.depth.square() if missing == "weights" else drawn.barycentric.square()).sum().backward()
        gradients.append(given.grad.double())
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_interpolation_equals_plain_torch_forward_and_backward(sphere_clip):
    clip, faces = sphere_clip(24)
    drawn = rasterise(clip, faces, 24, 24, "cpu")
    generator = torch.Generator().manual_seed(2)
    for shape in ((clip.shape[1], 5), (2, clip.shape[1], 5)):
        values = torch.randn(shape, generator=generator)
        g_out = torch.randn(2, 24, 24, 5, generator=generator)
        results = []
        for dtype in (torch.float32, torch.float64):
            given = values.clone().to(dtype).requires_grad_()
            weights = drawn.barycentric.clone().to(dtype).requires_grad_()
            out = weighted(given, faces, drawn.face, weights)
            out.backward(g_out.to(dtype))
            # Off the mesh the plain gradient of the weights is that of face 0; nothing passes it on.
            results.append((out.double(), given.grad.double(), (weights.grad * drawn.mask[..., None]).double()))
        for fast, plain in zip(*results, strict=True):
            torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["soup", "sphere"])
def test_pixel_derivatives_equal_plain_torch(name, soup, sphere_clip):
    clip, faces = scenes(soup, sphere_clip)[name]
    drawn = rasterise(clip, faces, 24, 32, "cpu")
    fast, plain = pixel_derivatives(clip, faces, drawn.face), pixel_derivatives(clip.double(), faces, drawn.face)
    torch.testing.assert_close(fast.double(), plain, rtol=1e-4, atol=1e-4)


def everything(clip, faces, values):
    clip, values = clip.clone().requires_grad_(), values.clone().requires_grad_()
    drawn = rasterise(clip, faces, 37, 41, "cpu")
    image = interpolate(values, faces, drawn)
    (image.square().sum() + drawn.depth.square().sum()).backward()
    found = silhouettes.find(drawn, clip.detach(), faces, neighbours(faces))
    change = pixel_derivatives(clip.detach(), faces, drawn.face)
    return drawn.face, drawn.barycentric, drawn.depth, image, change, clip.grad, values.grad, *found


def test_any_number_of_threads_gives_the_same_bits(soup, monkeypatch):
    clip, faces = soup(5, faces=300, batch=3)
    values = torch.randn(clip.shape[1], 4, generator=torch.Generator().manual_seed(6))
    monkeypatch.setattr(workers, "thread_count", lambda _: 1)
    expected = everything(clip, faces, values)
    for threads in (2, 5):
        monkeypatch.setattr(workers, "thread_count", lambda _, threads=threads: threads)
        assert all(
            torch.equal(one, other) for one, other in zip(expected, everything(clip, faces, values), strict=True)
        )


def test_strided_arguments_are_read_right(sphere_clip):
    clip, faces = sphere_clip(16)
    wide = torch.cat([clip, clip], dim=2)[..., :4]
    turned = faces.T.contiguous().T
    assert not wide.is_contiguous() and not turned.is_contiguous()
    one, other = rasterise(clip, faces, 16, 16, "cpu"), rasterise(wide, turned, 16, 16, "cpu")
    assert torch.equal(one.face, other.face) and torch.equal(one.barycentric, other.barycentric)


def test_probe_names_the_missing_package(monkeypatch):
    cpu.probe.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cpu.probe() == "numba is not installed: pip install numba"
    cpu.probe.cache_clear()
