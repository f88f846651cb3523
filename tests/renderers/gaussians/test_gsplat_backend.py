"""The gsplat adapter: its call fits the installed package, its probe tells what to do, its statistics mean the same."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from pathlib import Path

import pytest
import torch

from renderers.gaussians import constants, gsplat_backend, initialise
from renderers.gaussians.density import DensitySettings, DensityStatistics
from renderers.gaussians.rasterise import rasterise
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import turntable
from sds3d.errors import BackendError

gsplat = pytest.importorskip("gsplat")
OPTIONS = ("near_plane", "far_plane", "radius_clip", "eps2d", "sh_degree", "backgrounds", "render_mode")
OPTIONS += ("rasterize_mode", "absgrad", "width", "height")


def test_call_binds_to_the_installed_signature(make_scene):
    scene = make_scene()
    arguments = gsplat_backend.call_arguments(*scene.gaussians, scene.viewmats, scene.Ks, **dict.fromkeys(OPTIONS, 0))
    bound = inspect.signature(gsplat.rasterization).bind(**arguments)
    assert bound.arguments["packed"] is False and bound.arguments["tile_size"] == constants.TILE
    assert set(OPTIONS) <= set(bound.arguments)


def test_our_defaults_are_theirs():
    ours, theirs = inspect.signature(rasterise).parameters, inspect.signature(gsplat.rasterization).parameters
    for name in OPTIONS:
        assert ours[name].default == theirs[name].default, name


def test_dispatch_hands_over_every_argument(make_scene, monkeypatch):
    seen = {}

    def fake(**arguments):
        seen.update(arguments)
        return torch.zeros(1), torch.zeros(1), {"means2d": torch.zeros(1)}

    monkeypatch.setattr(gsplat, "rasterization", fake)
    monkeypatch.setattr("renderers.gaussians.rasterise.choose_backend", lambda *_: "gsplat")
    scene = make_scene()
    _, _, meta = rasterise(*scene.call(), eps2d=0.1, render_mode="ED", rasterize_mode="antialiased", absgrad=True)
    assert meta["backend"] == "gsplat" and set(OPTIONS) <= set(seen)
    given = {
        "eps2d": 0.1,
        "render_mode": "ED",
        "rasterize_mode": "antialiased",
        "absgrad": True,
        "width": 37,
        "height": 21,
    }
    assert {name: seen[name] for name in given} == given
    assert torch.equal(seen["means"], scene.means) and torch.equal(seen["Ks"], scene.Ks)


def test_thresholds_are_those_of_the_installed_kernels():
    """The CUDA sources ship with the wheel: read the constants there, so that a new version cannot drift unnoticed."""
    folder = Path(gsplat.__file__).parent / "cuda" / "csrc"
    kernel = (folder / "RasterizeToPixels3DGSFwd.cu").read_text()
    assert float(re.search(r"min\((0\.\d+)f, opac", kernel)[1]) == constants.ALPHA_MAX
    assert float(re.search(r"next_T <= (\S+?)f\)", kernel)[1]) == constants.TRANSMITTANCE_MIN
    extent = re.search(r"float extend = (\S+?)f;", (folder / "ProjectionEWA3DGSFused.cu").read_text())[1]
    assert float(extent) == constants.EXTENT_MAX
    assert "(1.f / 255.f)" in (folder.parent / "include" / "Common.h").read_text()


def test_probe_names_the_reason_and_the_fix(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "needs an NVIDIA card" in gsplat_backend.probe()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gsplat_backend, "_nvcc", lambda: None)
    assert gsplat_backend.probe().endswith("install the CUDA toolkit or set CUDA_HOME")
    monkeypatch.setattr(gsplat_backend, "_nvcc", lambda: "nvcc")
    assert gsplat_backend.probe() == "available"
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "1.6.0")
    assert gsplat_backend.probe() == "gsplat 1.6.0 follows other rules than 1.5: pip install gsplat==1.5.3"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert gsplat_backend.probe() == "gsplat is not installed: pip install gsplat==1.5.3"


def test_asking_for_it_without_a_card_is_an_error(make_scene, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match=r"'gsplat' cannot run here: gsplat needs an NVIDIA card"):
        rasterise(*make_scene().call(), backend="gsplat")


def test_density_statistics_are_those_of_gsplat(make_scene):
    """gsplat's own strategy reads our meta and accumulates the same numbers."""
    scene = make_scene().to(torch.float32)
    image, _, meta = rasterise(*scene.call())
    image.square().sum().backward()
    strategy = gsplat.DefaultStrategy()
    state = strategy.initialize_state()
    strategy._update_state({"means": scene.means}, state, meta)
    statistics = DensityStatistics(60)
    statistics.update(meta, absolute=False)
    assert torch.allclose(statistics.gradient_sum, state["grad2d"], rtol=1e-5)
    assert torch.equal(statistics.seen, state["count"])


def _without_kernels(name):
    """Return what the compiled function `name` returns, as far as shapes and types go (read from gsplat's sources)."""

    def project(means, covars, quats, scales, opacities, viewmats, *_):
        empty, shape = means.new_empty, (len(viewmats), len(means))
        radii = means.new_empty((*shape, 2), dtype=torch.int32)
        return radii, empty(*shape, 2), empty(shape), empty(*shape, 3), empty(shape)

    def project_back(means, covars, quats, scales, viewmats, *_):
        return means.new_empty(means.shape), None, quats.new_empty(quats.shape), scales.new_empty(scales.shape), None

    def tiles(means2d, *_):
        return (means2d.new_empty(n, dtype=kind) for n, kind in ((5, torch.int32), (7, torch.int64), (7, torch.int32)))

    def offsets(ids, images, tile_width, tile_height):
        return ids.new_empty((images, tile_height, tile_width), dtype=torch.int32)

    def draw(means2d, conics, colors, opacities, backgrounds, masks, width, height, *_):
        image = colors.new_empty((len(means2d), height, width, colors.shape[-1]))
        return image, image[..., :1].clone(), image[..., 0].to(torch.int32)

    def draw_back(means2d, conics, colors, opacities, *rest):
        tensors = (means2d, means2d, conics, colors, opacities)
        return tuple(t.new_empty(t.shape) for t in tensors)

    return {
        "projection_ewa_3dgs_fused_fwd": project,
        "projection_ewa_3dgs_fused_bwd": project_back,
        "intersect_tile": tiles,
        "intersect_offset": offsets,
        "rasterize_to_pixels_3dgs_fwd": draw,
        "rasterize_to_pixels_3dgs_bwd": draw_back,
    }[name]


@pytest.mark.parametrize(
    ("settings", "density"),
    [
        ({}, {"mode": "default"}),
        ({"normals": True, "rasterize_mode": "antialiased"}, {"mode": "default", "absolute_gradient": True}),
        ({}, {"mode": "default", "radius_stop": 100}),
        ({}, {"mode": "mcmc"}),
        ({}, {"mode": "relocate"}),
    ],
)
def test_a_training_step_runs_without_values(monkeypatch, settings, density):
    """gsplat's own Python on the meta device, its compiled functions replaced by their shapes: render, terms, backward,
    optimiser and density control. Any hidden transfer, .item() or branch on a value fails here as it would cost time on
    a card."""
    from gsplat.cuda import _wrapper

    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_func", _without_kernels)
    monkeypatch.setattr(_wrapper, "_make_lazy_cuda_obj", lambda name: name)
    monkeypatch.setattr("renderers.gaussians.rasterise.choose_backend", lambda *_: "gsplat")
    cloud = initialise.ball(30, 0.5, torch.Generator().manual_seed(0))
    renderer = GaussianRenderer(cloud, GaussianSettings(**settings, density=DensitySettings(**density))).to("meta")
    rates = dict.fromkeys(("means", "quats", "log_scales", "opacity_logits", "sh0"), 1e-3)
    optimiser = torch.optim.Adam(renderer.parameter_groups(rates), foreach=False)
    cameras = turntable(2, 24).to("meta")
    render = renderer(cameras, torch.ones(2, 3, device="meta"))
    assert render.extras["meta"]["backend"] == "gsplat"
    shapes = {"rgb": (2, 24, 24, 3), "alpha": (2, 24, 24, 1), "depth": (2, 24, 24, 1)}
    for name, shape in shapes.items():
        value = getattr(render, name)
        assert value.is_meta and value.shape == shape and value.dtype == torch.float32, name
    terms = [term for _, term in renderer.regularisers(render)]
    (render.rgb.square().sum() + render.depth.sum() + torch.stack(terms).sum()).backward()
    for name in rates:
        gradient = getattr(renderer, name).grad
        assert gradient.is_meta and gradient.shape == getattr(renderer, name).shape, name
    optimiser.step()
    assert renderer.after_step(7, optimiser, render) == {}
    assert all(buffer.is_meta for buffer in renderer.statistics.buffers())


@pytest.mark.cuda
@pytest.mark.skipif(gsplat_backend.probe() != "available", reason=gsplat_backend.probe())
@pytest.mark.parametrize("rasterize_mode", ["classic", "antialiased"])
def test_gsplat_draws_the_reference_picture(make_scene, rasterize_mode):
    results = []
    for device, backend in (("cuda", "gsplat"), ("cpu", "reference")):
        scene = make_scene().to(torch.float32)
        leaves = [t.detach().to(device).requires_grad_() for t in scene.gaussians]
        cameras = (scene.viewmats.to(device), scene.Ks.to(device), scene.width, scene.height)
        image, alpha, _ = rasterise(
            *leaves, *cameras, render_mode="RGB+D", rasterize_mode=rasterize_mode, backend=backend
        )
        (image.square().sum() + alpha.square().sum()).backward()
        results.append(([image.cpu(), alpha.cpu()], [t.grad.cpu() for t in leaves]))
    for ours, theirs in zip(results[0][0], results[1][0], strict=True):
        assert (ours - theirs).abs().mean() < 1e-3
    for ours, theirs in zip(results[0][1], results[1][1], strict=True):
        assert (ours - theirs).norm() < 1e-2 * theirs.norm()
