"""The compiled back end: gradients against float64 autograd of the reference, equal bits for any number of threads."""

from __future__ import annotations

import logging
import os
import threading

import pytest
import torch

from renderers.gaussians import cpu
from renderers.gaussians.rasterise import rasterise

CASES = {
    "plain": ({}, {}),
    "one camera, size not of tiles": ({"cameras": 1, "width": 50, "height": 33}, {"render_mode": "RGB+D"}),
    "three cameras, D=1": ({"cameras": 3, "channels": 1}, {}),
    "D=5": ({"channels": 5}, {"rasterize_mode": "antialiased"}),
    "fewer Gaussians than a vector": ({"count": 5}, {}),
    "camera inside": ({"distance": 0.3, "count": 90}, {"render_mode": "RGB+D"}),
    "antialiased small": ({"size": 0.02}, {"rasterize_mode": "antialiased"}),
    "needles and discs": ({"anisotropy": 1.5}, {"rasterize_mode": "antialiased"}),
    "only depth": ({}, {"render_mode": "D"}),
    "expected depth": ({}, {"render_mode": "RGB+ED"}),
    "stack that stops": ({"count": 150, "size": 0.3, "opaque": True}, {}),
}


def _run(scene, backend, **options):
    """Return image, alpha, gradients of the Gaussians, and both gradients of the projected means."""
    image, alpha, meta = rasterise(*scene.call(), backend=backend, absgrad=True, **options)
    generator = torch.Generator().manual_seed(9)
    upstream = torch.randn(image.shape, generator=generator).to(image)
    upstream_alpha = torch.randn(alpha.shape, generator=generator).to(image)
    ((image * upstream).sum() + (alpha * upstream_alpha).sum()).backward()
    gradients = [t.grad for t in scene.gaussians if t.grad is not None]
    return image, alpha, [*gradients, meta["means2d"].grad, meta["means2d"].absgrad]


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float64_autograd_of_the_reference(make_scene, name):
    kwargs, options = CASES[name]
    kwargs = dict(kwargs)
    opaque = kwargs.pop("opaque", False)
    scene = make_scene(seed=4, **kwargs)
    if opaque:
        scene.opacities = torch.where(torch.arange(len(scene.means)) % 3 == 0, 1.0, scene.opacities)
    options["backgrounds"] = torch.rand(
        len(scene.viewmats), scene.colors.shape[1], generator=torch.Generator().manual_seed(1)
    )
    image, alpha, found = _run(scene.to(torch.float32), "cpu", **options)
    options["backgrounds"] = options["backgrounds"].double()
    exact_image, exact_alpha, exact = _run(scene.to(torch.float64), "reference", **options)
    assert (image - exact_image).abs().mean() < 1e-5 and (alpha - exact_alpha).abs().max() < 1e-5
    assert len(found) == len(exact) >= 6
    for ours, theirs in zip(found, exact, strict=True):
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * torch.linalg.vector_norm(theirs)


def test_absgrad_is_the_sum_of_single_pixel_gradients(make_scene):
    scene = make_scene(count=12, cameras=1, width=7, height=6, size=0.3).to(torch.float32)
    image, _, meta = rasterise(*scene.call(), backend="cpu", absgrad=True)
    total = torch.zeros(1, 12, 2)
    for value in image.sum(dim=-1).flatten():
        total += torch.autograd.grad(value, meta["means2d"], retain_graph=True)[0].abs()
    image.sum().backward()
    assert torch.allclose(meta["means2d"].absgrad, total, rtol=1e-4, atol=1e-6)


def test_threads_and_repeats_give_equal_bits(make_scene, monkeypatch):
    results = []
    for threads in (1, 2, 4, 1):
        monkeypatch.setattr(cpu, "thread_count", lambda entries, threads=threads: threads)
        scene = make_scene(count=120, cameras=3, width=70, height=50).to(torch.float32)
        image, alpha, gradients = _run(scene, "cpu", render_mode="RGB+ED")
        results.append([image, alpha, *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_thread_count_follows_the_work(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert [cpu.thread_count(n) for n in (0, cpu.THREAD_ENTRIES, 2 * cpu.THREAD_ENTRIES, 10**9)] == [1, 1, 2, 2]


def test_strided_inputs_and_gradients(make_scene):
    plain, strided = make_scene().to(torch.float32), make_scene().to(torch.float32)
    with torch.no_grad():
        for name in ("means", "quats", "scales", "colors"):
            setattr(strided, name, getattr(strided, name).T.contiguous().T.requires_grad_())
    gradients = []
    for scene in (plain, strided):
        image, _, _ = rasterise(*scene.call(), backend="cpu")
        image.permute(0, 3, 1, 2)[:, :, ::2].square().sum().backward()
        gradients.append([t.grad for t in scene.gaussians])
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-7) for a, b in zip(*gradients, strict=True))


def test_calls_from_two_threads_at_once(make_scene, monkeypatch):
    monkeypatch.setattr(cpu, "thread_count", lambda entries: 2)
    scene = make_scene()
    expected = rasterise(*scene.call(), backend="cpu")[0]
    found = [None] * 4

    def draw(i):
        found[i] = rasterise(*scene.call(), backend="cpu")[0]

    workers = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert all(image is not None and torch.equal(image, expected) for image in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork(make_scene, monkeypatch):
    monkeypatch.setattr(cpu, "thread_count", lambda entries: 2)
    scene = make_scene()
    rasterise(*scene.call(), backend="cpu")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            projection = cpu.Projection(*(t.clone() for t in _projection(scene)))
            cpu.composite(projection, scene.colors.expand(2, -1, -1).contiguous(), scene.width, scene.height)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def _projection(scene):
    """Return 2D Gaussians made without matrix products (a forked child must not touch torch's thread pool)."""
    generator = torch.Generator().manual_seed(0)
    count = len(scene.means)
    means2d = 20.0 * torch.rand(2, count, 2, generator=generator)
    conics = torch.tensor([0.2, 0.0, 0.2]).expand(2, count, 3).contiguous()
    depths = torch.rand(2, count, generator=generator)
    return means2d, depths, conics, torch.full((2, count), 0.5), torch.full((2, count, 2), 9, dtype=torch.int32)


def test_a_cold_compile_is_announced_and_a_warm_one_is_not(tmp_path, monkeypatch, caplog):
    from renderers.gaussians import cpu_kernels

    class Cold:
        class stats:
            cache_path = str(tmp_path)

        py_func = cpu_kernels.backward.py_func

    monkeypatch.setattr(cpu_kernels, "backward", Cold)
    line = Cold.py_func.__code__.co_firstlineno
    with caplog.at_level(logging.WARNING):
        cpu._kernels.__wrapped__()
        assert [r.message.startswith("Compiling the CPU rasteriser: once") for r in caplog.records] == [True]
        (tmp_path / f"cpu_kernels.backward-{line}.py311.nbi").touch()
        caplog.clear()
        cpu._kernels.__wrapped__()
        assert not caplog.records


def test_no_gradient_bookkeeping_without_gradients(make_scene):
    image, alpha, meta = rasterise(*make_scene().call(), backend="cpu", absgrad=True)
    assert not image.requires_grad and not alpha.requires_grad and meta["means2d"].grad is None
