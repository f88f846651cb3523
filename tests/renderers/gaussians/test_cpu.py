"""The compiled back end: gradients against float64 autograd of the reference, equal bits for any number of threads."""

from __future__ import annotations

import gc
import logging
import os
import threading

import pytest
import torch
import torch.utils.checkpoint

from renderers.gaussians import cpu, plans, scratch, workers
from renderers.gaussians.projection import Projection, project
from renderers.gaussians.rasterise import rasterise

CASES = {
    "plain": ({}, {}),
    "one camera, size not of tiles": ({"cameras": 1, "width": 50, "height": 33}, {"render_mode": "RGB+D"}),
    "three cameras, D=1": ({"cameras": 3, "channels": 1}, {}),
    "D=8": ({"channels": 8}, {"rasterize_mode": "antialiased"}),
    "D=20": ({"channels": 20}, {"render_mode": "RGB+D"}),
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


@pytest.mark.parametrize("mode", ["classic", "antialiased"])
def test_gradients_of_needles_keep_their_precision(make_scene, mode):
    """Hundreds of pixels long and as thin as the blur: in rounded numbers a conic times such an axis is no longer 0."""
    found = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        scene = make_scene(count=6, seed=2, width=40, height=30, spread=0.3).to(dtype)
        with torch.no_grad():
            scene.scales[:] = torch.tensor([8.0, 3e-3, 2e-5])
            scene.opacities[:] = 0.6
        found.append(_run(scene, backend, rasterize_mode=mode)[2])
    for ours, theirs in zip(*found, strict=True):
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * torch.linalg.vector_norm(theirs)


def test_absgrad_is_the_sum_of_single_pixel_gradients(make_scene):
    scene = make_scene(count=12, cameras=1, width=7, height=6, size=0.3).to(torch.float32)
    image, _, meta = rasterise(*scene.call(), backend="cpu", absgrad=True)
    means2d, total, signed = meta["means2d"], torch.zeros(1, 12, 2), torch.zeros(1, 12, 2)
    for value in image.sum(dim=-1).flatten():
        means2d.grad = None
        value.backward(retain_graph=True)
        total, signed = total + means2d.grad.abs(), signed + means2d.grad
    means2d.grad = None
    image.sum().backward()
    assert torch.allclose(means2d.absgrad, total, rtol=1e-4, atol=1e-6)
    assert torch.allclose(means2d.grad, signed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_gradients_of_projected_means_add_up(make_scene, backend):
    """`means2d.grad` is what `retain_grad` gives, for a loss on the picture, on the means themselves, and twice over."""
    scene = make_scene(distance=4.0).to(torch.float32)
    image, _, meta = rasterise(*scene.call(), backend=backend)
    means2d, found = meta["means2d"], []
    for loss in (image.sum(), 3.0 * means2d.sum(), image.sum() + 3.0 * means2d.sum()):
        means2d.grad = None
        loss.backward(retain_graph=True)
        found.append(means2d.grad)
    assert torch.equal(found[1], torch.full_like(means2d, 3.0)) and found[0].abs().max() > 0.1
    assert torch.allclose(found[2], found[0] + found[1], atol=1e-5)
    image.sum().backward()
    assert torch.allclose(means2d.grad, 2 * found[0] + found[1], atol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_absgrad_is_that_of_the_last_walk(make_scene, backend):
    """As gsplat has it: a graph that is walked again does not add to what was there."""
    image, alpha, meta = rasterise(*make_scene().to(torch.float32).call(), backend=backend, absgrad=True)
    found = []
    for loss in (image.sum(), alpha.sum(), image.sum()):
        loss.backward(retain_graph=True)
        found.append(meta["means2d"].absgrad.clone())
    assert torch.equal(found[0], found[2]) and (found[0] - found[1]).abs().max() > 0.1


def _copied(tensor):
    """Return a copy at another address and with other strides, as offloading makes it."""
    return torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor)


@pytest.mark.parametrize("learns_cameras", [False, True])
@pytest.mark.parametrize("how", ["checkpoint", "offload"])
@pytest.mark.parametrize("count", [60, 4000])  # memory that is simply allocated, and leased
def test_saved_tensors_may_move(make_scene, how, learns_cameras, count):
    """Checkpointing and offloading give backward other tensors than forward saved: kernels must not use old addresses."""
    gradients = []
    for moves in (False, True):
        scene = make_scene(count=count, width=70, height=50).to(torch.float32)
        scene.viewmats = scene.viewmats.clone().requires_grad_(learns_cameras)
        backgrounds = torch.full((2, 3), 0.4)

        def draw(*tensors, scene=scene, backgrounds=backgrounds):
            options = {"backend": "cpu", "render_mode": "RGB+ED", "backgrounds": backgrounds}
            return rasterise(*tensors, scene.Ks, 70, 50, **options)[:2]

        tensors = (*scene.gaussians, scene.viewmats)
        if not moves:
            image, alpha = draw(*tensors)
        elif how == "checkpoint":
            image, alpha = torch.utils.checkpoint.checkpoint(draw, *tensors, use_reentrant=False)
        else:
            with torch.autograd.graph.saved_tensors_hooks(_copied, _copied):
                image, alpha = draw(*tensors)
        other = rasterise(*make_scene(count=count, seed=1, width=70, height=50).call(), backend="cpu")[0]
        (image.square().sum() + alpha.sum()).backward()
        gradients.append([t.grad for t in tensors if t.requires_grad])
        assert other.isfinite().all()
    assert len(gradients[0]) == 5 + learns_cameras
    for a, b in zip(*gradients, strict=True):  # torch's projection rounds by strides
        assert torch.linalg.vector_norm(a - b) <= (1e-5 * torch.linalg.vector_norm(a) if learns_cameras else 0.0)


@pytest.mark.parametrize("cameras", [1, 3])
def test_threads_and_repeats_give_equal_bits(make_scene, monkeypatch, cameras):
    """One camera's Gaussians are binned in as many parts as there are threads, several cameras' also as wholes."""
    results = []
    for threads in (1, 2, 4, 1):
        monkeypatch.setattr(workers, "thread_count", lambda work, threads=threads: threads)
        scene = make_scene(count=120, cameras=cameras, width=70, height=50).to(torch.float32)
        image, alpha, gradients = _run(scene, "cpu", render_mode="RGB+ED")
        results.append([image, alpha, *gradients])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_thread_count_follows_the_work(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    unit = workers.THREAD_MICROSECONDS
    assert [workers.thread_count(n) for n in (0, unit, 2 * unit, 1e9)] == [1, 1, 2, 2]


def test_a_late_thread_is_waited_for_only_if_its_share_is_its_own():
    """Kernels that take work from a common counter leave nothing to a share that has not begun."""
    started, finish = threading.Event(), threading.Event()

    def block():
        started.set()
        finish.wait(timeout=30)

    blocked = workers._pool(os.getpid(), 1).submit(block)
    assert started.wait(timeout=30)
    try:
        assert workers.run(2, lambda job, first, step: (job, first, step), "job", is_taken=True) == [("job", 1, 2)]
        threading.Timer(0.05, finish.set).start()
        assert workers.run(2, lambda job, first, step: first, "job") == [1, 0] and finish.is_set()
    finally:
        finish.set()
        blocked.result(timeout=30)


def test_parts_of_a_camera_may_be_empty(make_scene, monkeypatch):
    """More threads than Gaussians, and none at all."""
    for count in (0, 2):
        scene, images = make_scene(count=count, cameras=1), []
        for threads in (1, 5):
            monkeypatch.setattr(workers, "thread_count", lambda work, threads=threads: threads)
            images.append(rasterise(*scene.call(), backend="cpu")[0])
        assert torch.equal(*images)


def test_plans_are_those_of_their_arguments(make_scene):
    """Calls of other shapes, sizes and thresholds in between leave no trace in what is kept of a shape."""
    scene = make_scene()
    expected = rasterise(*scene.call(), backend="cpu")[0]
    for options in ({"near_plane": 2.3}, {"eps2d": 3.0}, {"radius_clip": 4.0}, {"rasterize_mode": "antialiased"}):
        other = rasterise(*scene.call(), backend="cpu", **options)[0]
        assert not torch.equal(other, expected)
        assert torch.equal(rasterise(*scene.call(), backend="cpu", **options)[0], other)
    rasterise(*make_scene(count=61, cameras=1, width=30).call(), backend="cpu")
    assert torch.equal(rasterise(*scene.call(), backend="cpu")[0], expected)


def test_extreme_thresholds_are_no_error(make_scene):
    """Numbers that float32 does not have mean infinity."""
    scene = make_scene()
    usual = rasterise(*scene.call(), backend="cpu")[0]
    assert torch.equal(rasterise(*scene.call(), backend="cpu", far_plane=1e300)[0], usual)
    assert torch.equal(rasterise(*scene.call(), backend="cpu", far_plane=float("inf"))[0], usual)
    assert (rasterise(*scene.call(), backend="cpu", near_plane=1e300)[0] == 0).all()


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
    monkeypatch.setattr(workers, "thread_count", lambda work: 2)
    scene = make_scene()
    expected = rasterise(*scene.call(), backend="cpu")[0]
    found = [None] * 4

    def draw(i):
        found[i] = rasterise(*scene.call(), backend="cpu")[0]

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(image is not None and torch.equal(image, expected) for image in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork(make_scene, monkeypatch):
    monkeypatch.setattr(workers, "thread_count", lambda work: 2)
    scene = make_scene()
    tensors, view = (*scene.gaussians[:4], scene.viewmats, scene.Ks), cpu.View(scene.width, scene.height)
    expected, _, _ = cpu.render(tensors, scene.colors, view, tuple(OPTIONS.values()))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            image, _, _ = cpu.render(tensors, scene.colors, view, tuple(OPTIONS.values()))
            code = 0 if torch.equal(image, expected) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


OPTIONS = {"near_plane": 0.01, "far_plane": 1e10, "eps2d": 0.3, "radius_clip": 0.0, "antialiased": False}


def test_projection_agrees_with_the_torch_projection(make_scene):
    for antialiased in (False, True):
        scene = make_scene(count=83, cameras=3, distance=1.0)
        tensors = (*scene.gaussians[:4], scene.viewmats, scene.Ks)
        options = {**OPTIONS, "antialiased": antialiased, "far_plane": 2.0, "radius_clip": 1.5}
        contiguous = [tensor.detach().contiguous() for tensor in tensors]
        _, found, records, is_usable = cpu.project(contiguous, cpu.View(37, 21), tuple(options.values()))
        exact = project(*(t.double() for t in tensors), 37, 21, **options)
        seen = (exact.radii > 0).all(dim=-1)
        assert 20 < seen.sum() < 200 and is_usable and torch.equal(found.radii, exact.radii)
        for ours, theirs in zip(found[:4], exact[:4], strict=True):
            assert torch.allclose(ours[seen], theirs[seen].float(), rtol=1e-4, atol=1e-4)
        packed = cpu.pack(Projection(*(field.float() for field in exact[:4]), exact.radii))
        both = torch.cat([seen, seen.new_zeros(3, packed.shape[1] - 83)], dim=1)
        floats = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15]  # 11 and 12 are the radii, int32
        assert torch.allclose(records[both][:, floats], packed[both][:, floats], rtol=1e-3, atol=1e-3)


def test_cameras_that_need_gradients_get_them(make_scene):
    """The torch projection steps in, and the picture stays the same."""
    results = []
    for dtype, backend in ((torch.float32, "cpu"), (torch.float64, "reference")):
        scene = make_scene().to(dtype)
        scene.viewmats.requires_grad_()
        scene.Ks.requires_grad_()
        image, _, _ = rasterise(*scene.call(), backend=backend, render_mode="RGB+ED")
        image.square().sum().backward()
        results.append([image, scene.viewmats.grad, scene.Ks.grad, scene.means.grad])
    assert (results[0][0] - results[1][0]).abs().mean() < 1e-5
    for ours, theirs in zip(results[0][1:], results[1][1:], strict=True):
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * torch.linalg.vector_norm(theirs)


def test_backgrounds_that_need_gradients_get_them(make_scene):
    results = []
    for backend in ("cpu", "reference"):
        scene, backgrounds = make_scene().to(torch.float32), torch.full((2, 3), 0.3, requires_grad=True)
        image, _, _ = rasterise(*scene.call(), backend=backend, backgrounds=backgrounds, render_mode="RGB+ED")
        image.square().sum().backward()
        results.append([image, backgrounds.grad, scene.means.grad])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_meta_can_be_differentiated(make_scene):
    """Losses on the projected Gaussians reach the parameters, beside those on the picture."""
    results = []
    for backend in ("cpu", "reference"):
        scene = make_scene(distance=4.0).to(torch.float32)
        image, _, meta = rasterise(*scene.call(), backend=backend, rasterize_mode="antialiased")
        names = ("means2d", "depths", "conics", "opacities")
        terms = [(meta[name] * weight).sum() for name, weight in zip(names, (0.1, 1.0, 5.0, 1.0), strict=True)]
        (sum(terms) + image.sum()).backward()
        results.append([t.grad for t in scene.gaussians])
    for ours, theirs in zip(*results, strict=True):
        assert torch.linalg.vector_norm(ours - theirs) <= 1e-4 * torch.linalg.vector_norm(theirs)


def test_colours_alone_can_be_learned(make_scene):
    results = []
    for backend in ("cpu", "reference"):
        scene = make_scene().to(torch.float32)
        for tensor in (scene.means, scene.quats, scene.scales, scene.opacities):
            tensor.requires_grad_(False)
        image, _, _ = rasterise(*scene.call(), backend=backend)
        image.square().sum().backward()
        assert scene.means.grad is None
        results.append(scene.colors.grad)
    assert torch.allclose(*results, rtol=1e-3, atol=1e-3) and results[0].abs().max() > 0.1


def test_a_graph_can_be_walked_twice(make_scene):
    scene = make_scene().to(torch.float32)
    image, _, _ = rasterise(*scene.call(), backend="cpu")
    first = torch.autograd.grad(image.sum(), scene.gaussians, retain_graph=True)
    rasterise(*make_scene(seed=3).call(), backend="cpu")  # would overwrite memory that was given back too early
    second = torch.autograd.grad(image.sum(), scene.gaussians)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(image.sum(), scene.gaussians)


@pytest.mark.parametrize("with_cameras", [False, True])
def test_second_derivatives_are_refused_and_first_ones_are_the_same(make_scene, with_cameras):
    """Asking for a graph of the gradients is no error (a penalty may want it), differentiating them is one."""
    scene = make_scene().to(torch.float32)
    scene.viewmats.requires_grad_(with_cameras)
    image, _, _ = rasterise(*scene.call(), backend="cpu")
    loss = image.square().sum()
    once = torch.autograd.grad(loss, scene.gaussians, retain_graph=True)
    again = torch.autograd.grad(loss, scene.gaussians, create_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
    with pytest.raises(RuntimeError, match="once_differentiable"):
        again[4].square().sum().backward()


def test_memory_comes_back(make_scene, monkeypatch):
    """Leased buffers return after backward, when a graph is dropped, and without gradients; their number stays."""

    def held():  # no collection of garbage: nothing may lie in reference cycles
        return {size: len(buffers) for size, buffers in scratch._free.items()}

    def step(kind):
        scene = make_scene().to(torch.float32)
        with torch.set_grad_enabled(kind != "no_grad"):
            image, _, meta = rasterise(*scene.call(), backend="cpu")
        if kind == "backward":
            image.sum().backward()
            del meta  # holds the projection records, which are a lease too
            return held()
        return None

    monkeypatch.setattr(scratch, "SMALL", 0)
    for kind in ("backward", "dropped", "no_grad"):
        step(kind)
        before = held()
        for _ in range(10):
            during = step(kind)
        assert held() == before and (during is None or during == before)


def test_a_cold_compile_is_announced_and_a_warm_one_is_not(monkeypatch, caplog):
    from renderers.gaussians.kernels import compiling

    for cached, lines in ((False, 1), (True, 0)):
        caplog.clear()
        monkeypatch.setattr(compiling, "is_cached", lambda *_, cached=cached: cached)
        with caplog.at_level(logging.WARNING):
            plans.kernels.__wrapped__()
        assert len(caplog.records) == lines
        assert all(r.message.startswith("Compiling the CPU rasteriser: once per install") for r in caplog.records)


def test_collection_of_garbage_pauses_and_goes_on():
    assert gc.isenabled()
    with pytest.raises(KeyError), plans._paused_collection():
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


def test_no_gradient_bookkeeping_without_gradients(make_scene):
    image, alpha, meta = rasterise(*make_scene().call(), backend="cpu", absgrad=True)
    assert not image.requires_grad and not alpha.requires_grad and meta["means2d"].grad is None
