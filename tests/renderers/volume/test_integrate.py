"""Volume rendering against closed forms, a loop, gradient checks and nerfacc's batched functions."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.volume import nerfacc_backend
from renderers.volume.integrate import accumulate, distortion, exclusive_sum, weights_of
from sds3d.errors import BackendError, ConfigError


def _packed(counts=(3, 0, 5, 1, 0), seed=0, dtype=torch.float64):
    draws = torch.Generator().manual_seed(seed)
    ray = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return torch.rand(len(ray), generator=draws, dtype=dtype), ray, len(counts)


def test_exclusive_sum_equals_a_loop_and_restarts_on_each_ray():
    values, ray, rays = _packed()
    found = exclusive_sum(values, ray, rays)
    for i in range(len(values)):
        wanted = sum(values[j].item() for j in range(i) if ray[j] == ray[i])
        assert found[i].item() == pytest.approx(wanted, abs=1e-12)
    assert exclusive_sum(values[:0], ray[:0], 4).shape == (0,)


def test_single_precision_keeps_its_digits_on_the_last_of_many_rays():
    values = torch.full((400_000,), 7.0)
    ray = torch.arange(200_000).repeat_interleave(2)
    values[-2:] = 1e-3
    found = exclusive_sum(values, ray, 200_000)
    assert found[-1].item() == pytest.approx(1e-3, rel=1e-6) and found[-2].item() == 0


def test_constant_slab_equals_beer_lambert():
    """Density sigma over length L: alpha = 1 - exp(-sigma L); mean distance of what is seen in closed form."""
    sigma, length, count = 1.7, 2.0, 4000
    width = torch.full((count,), length / count, dtype=torch.float64)
    place = (torch.arange(count, dtype=torch.float64) + 0.5) * length / count
    ray = torch.zeros(count, dtype=torch.int64)
    weights, light = weights_of(sigma * width, ray, 1)
    alpha = 1 - math.exp(-sigma * length)
    assert weights.sum().item() == pytest.approx(alpha, abs=1e-12)  # exact for any number of intervals
    assert light[-1].item() == pytest.approx(math.exp(-sigma * (length - length / count)), abs=1e-12)
    mean = 1 / sigma - length * math.exp(-sigma * length) / alpha
    assert (accumulate(weights, place[:, None], ray, 1)[0, 0] / alpha).item() == pytest.approx(mean, abs=1e-6)


def test_gaussian_blob_equals_its_line_integral():
    """Density a exp(-r^2 / 2 s^2), a line that passes at distance b: depth = a s sqrt(2 pi) exp(-b^2 / 2 s^2)."""
    a, s, count = 3.0, 0.2, 400
    offsets = torch.tensor([0.0, 0.1, 0.3], dtype=torch.float64)
    place = torch.linspace(-2, 2, count, dtype=torch.float64)
    density = a * torch.exp(-(offsets[:, None] ** 2 + place**2) / (2 * s**2))
    depths = (density * (place[1] - place[0])).reshape(-1)
    ray = torch.arange(3).repeat_interleave(count)
    weights, _ = weights_of(depths, ray, 3)
    alpha = accumulate(weights, torch.ones_like(weights)[:, None], ray, 3)[:, 0]
    wanted = 1 - torch.exp(-a * s * math.sqrt(2 * math.pi) * torch.exp(-(offsets**2) / (2 * s**2)))
    assert torch.allclose(alpha, wanted, atol=1e-10)


def test_distortion_equals_the_double_sum():
    weights, ray, rays = _packed()
    place, width = exclusive_sum(*_packed(seed=2)), _packed(seed=1)[0]
    found = distortion(weights, place, width, ray, rays)
    for r in range(rays):
        w, s = weights[ray == r], place[ray == r]
        wanted = (w[:, None] * w * (s[:, None] - s).abs()).sum() + (w**2 * width[ray == r]).sum() / 3
        assert found[r].item() == pytest.approx(wanted.item(), abs=1e-12)


def test_gradients():
    depths, ray, rays = _packed()
    place = exclusive_sum(*_packed(seed=2))
    depths.requires_grad_(True)

    def both(depths, values):
        weights, light = weights_of(depths, ray, rays)
        return accumulate(weights, values, ray, rays), light, distortion(weights, place, place, ray, rays)

    values = torch.rand(len(ray), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_(
        True
    )
    assert torch.autograd.gradcheck(both, (depths, values))


def test_equals_nerfacc_where_that_runs():
    """nerfacc's batched functions are plain torch operations and run anywhere."""
    nerfacc = pytest.importorskip("nerfacc")
    draws = torch.Generator().manual_seed(5)
    rays, count = 7, 13
    edges = torch.rand(rays, count + 1, generator=draws).cumsum(dim=1)
    sigma, colours = 2 * torch.rand(rays, count, generator=draws), torch.rand(rays, count, 3, generator=draws)
    start, end = edges[:, :-1], edges[:, 1:]
    wanted, transmittance, _ = nerfacc.render_weight_from_density(start, end, sigma)
    ray = torch.arange(rays).repeat_interleave(count)
    weights, light = weights_of((sigma * (end - start)).reshape(-1), ray, rays)
    assert torch.allclose(weights.view(rays, count), wanted, atol=1e-6)
    assert torch.allclose(light.view(rays, count), transmittance, atol=1e-6)
    sums = nerfacc.accumulate_along_rays(wanted.reshape(-1), colours.reshape(-1, 3), ray, rays)
    assert torch.allclose(accumulate(weights, colours.reshape(-1, 3), ray, rays), sums, atol=1e-6)
    alpha = 1 - torch.exp(-sigma * (end - start))
    by_alpha, _ = nerfacc.render_weight_from_alpha(alpha)
    assert torch.allclose(weights.view(rays, count), by_alpha, atol=1e-6)


def test_the_optional_back_end_says_why_not_and_how():
    state = nerfacc_backend.probe()
    if state != "available":
        assert "nerfacc" in state and ("pip install" in state or "torch" in state)
    values, ray, rays = _packed()
    assert not nerfacc_backend.chosen("auto", values)  # CPU tensors
    with pytest.raises(BackendError, match=r"backend 'nerfacc' cannot be used\. .* Use 'auto' or 'torch'"):
        weights_of(values, ray, rays, "nerfacc")
    with pytest.raises(ConfigError, match=r"backend is 'nerfac', which is unknown. Use 'nerfacc'"):
        weights_of(values, ray, rays, "nerfac")


@pytest.mark.parametrize("version", ["2.12.1", "2.13.0", "3.0"])
def test_the_reason_names_the_torch_that_would_do(monkeypatch, version):
    monkeypatch.setattr(nerfacc_backend.torch, "__version__", version)
    monkeypatch.setattr(nerfacc_backend.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(nerfacc_backend.importlib.metadata, "version", lambda name: "0.5.3")
    monkeypatch.setattr(nerfacc_backend.torch.cuda, "is_available", lambda: True)
    state = nerfacc_backend.probe()
    assert state == "available" if version == "2.12.1" else "torch 2.12 or older makes it available" in state


def test_the_call_fits_nerfacc_s_signature():
    nerfacc = pytest.importorskip("nerfacc")
    import inspect

    values, ray, rays = _packed()
    arguments = nerfacc_backend.call_arguments(values, ray, rays)
    inspect.signature(nerfacc.exclusive_sum).bind(**arguments)
    assert arguments["packed_info"].tolist() == [[0, 3], [3, 0], [3, 5], [8, 1], [9, 0]]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")
def test_nerfacc_and_torch_agree_on_a_card():
    values, ray, rays = (x.cuda() if torch.is_tensor(x) else x for x in _packed(dtype=torch.float32))
    if nerfacc_backend.probe() != "available":
        pytest.skip(nerfacc_backend.probe())
    assert torch.allclose(nerfacc_backend.exclusive_sum(values, ray, rays), exclusive_sum(values, ray, rays), atol=1e-6)


def test_meta_tensors_are_enough():
    ray = torch.zeros(12, dtype=torch.int64, device="meta")
    weights, _ = weights_of(torch.rand(12, device="meta", requires_grad=True), ray, 3)
    distortion(weights, weights, weights, ray, 3).sum().backward()
