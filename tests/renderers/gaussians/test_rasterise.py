"""What a rasterised picture must be, for every portable back end: closed forms, invariances, modes, messages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from renderers.gaussians import constants
from renderers.gaussians import rasterise as rasterise_module
from renderers.gaussians.rasterise import available_backends, choose_backend, rasterise
from sds3d.errors import BackendError, ConfigError, ShapeError

SIZE, FOCAL = 16, 20.0
KS = torch.tensor([[[FOCAL, 0.0, SIZE / 2], [0.0, FOCAL, SIZE / 2], [0.0, 0.0, 1.0]]])


@pytest.fixture(params=["reference", "cpu"])
def backend(request):
    return request.param


def _stack(depths, opacities, colors, scale=50.0, backend="reference", **options):
    """Draw huge round Gaussians on the axis of one camera: every pixel sees nearly their full opacity."""
    count = len(depths)
    means = torch.tensor([[0.0, 0.0, d] for d in depths])
    quats = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).expand(count, 4)
    colors = torch.tensor(colors, dtype=torch.float32)
    arguments = (means, quats, torch.full((count, 3), scale), torch.tensor(opacities), colors, torch.eye(4)[None], KS)
    return rasterise(*arguments, SIZE, SIZE, backend=backend, **options)


def test_two_half_opaque_gaussians_blend_front_to_back(backend):
    image, alpha, _ = _stack([2.0, 3.0], [0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]], backend=backend)
    assert torch.allclose(image[0, 8, 8], torch.tensor([0.5, 0.25]), atol=1e-4)
    assert torch.allclose(alpha[0, 8, 8], torch.tensor([0.75]), atol=1e-4)


def test_opacity_is_clamped_and_the_pixel_stops(backend):
    """0.999 in front leaves 0.001; the next opaque one would leave 1e-6, so it is not drawn at all."""
    image, alpha, _ = _stack([2.0, 3.0, 4.0], [1.0, 1.0, 0.5], [[1.0, 0], [0, 1.0], [0, 1.0]], backend=backend)
    assert torch.allclose(alpha[0, 8, 8], torch.tensor([constants.ALPHA_MAX]), atol=1e-6)
    assert image[0, 8, 8, 1] == 0.0


def test_depth_modes(backend):
    options = {"backend": backend}
    shape = ([2.0, 4.0], [0.5, 0.5], [[1.0], [1.0]])
    accumulated = _stack(*shape, render_mode="D", **options)[0][0, 8, 8]
    assert torch.allclose(accumulated, torch.tensor([0.5 * 2 + 0.25 * 4]), atol=1e-3)
    expected = _stack(*shape, render_mode="ED", **options)[0][0, 8, 8]
    assert torch.allclose(expected, torch.tensor([2.0 / 0.75]), atol=1e-3)
    both = _stack(*shape, render_mode="RGB+ED", backgrounds=torch.tensor([[1.0]]), **options)[0]
    assert torch.allclose(both[0, 8, 8], torch.tensor([1.0, 2.0 / 0.75]), atol=1e-3)
    assert both.shape == (1, SIZE, SIZE, 2)


def test_a_small_round_gaussian_integrates_to_its_area(backend):
    """Sum of alpha = o 2 pi sqrt(det cov2D), less the tail below ALPHA_MIN, which holds a share ALPHA_MIN / o."""
    opacity, scale, depth = 0.8, 0.3, 2.0
    _, alpha, _ = _stack([depth], [opacity], [[1.0]], scale=scale, backend=backend)
    variance = (FOCAL / depth * scale) ** 2 + 0.3
    _, inside, _ = _stack([depth], [opacity], [[1.0]], scale=0.1, backend=backend)
    variance = (FOCAL / depth * 0.1) ** 2 + 0.3
    expected = 2 * math.pi * variance * (opacity - constants.ALPHA_MIN)
    assert abs(float(inside.sum()) - expected) < 0.02 * expected
    assert alpha.sum() > inside.sum()


def test_background_shows_where_nothing_is(backend, make_scene):
    scene = make_scene(cameras=2)
    backgrounds = torch.tensor([[0.2, 0.4, 0.6], [1.0, 0.0, 0.0]])
    plain, alpha, _ = rasterise(*scene.call(), backend=backend)
    image, _, _ = rasterise(*scene.call(), backend=backend, backgrounds=backgrounds)
    assert torch.allclose(image, plain + (1 - alpha) * backgrounds[:, None, None], atol=1e-6)
    assert (alpha == 0).any() and alpha.max() > 0.5


def test_constant_colour_renders_colour_times_alpha(backend, make_scene):
    scene = make_scene()
    scene.colors = torch.tensor([[0.3, 0.6, 0.9]]).expand_as(scene.colors)
    image, alpha, _ = rasterise(*scene.call(), backend=backend)
    assert torch.allclose(image, alpha * torch.tensor([0.3, 0.6, 0.9]), atol=1e-5)


def test_order_of_the_gaussians_does_not_matter(backend, make_scene):
    scene = make_scene()
    order = torch.randperm(60, generator=torch.Generator().manual_seed(3))
    image, alpha, _ = rasterise(*scene.call(), backend=backend)
    shuffled = [t[order] for t in scene.gaussians]
    other, other_alpha, _ = rasterise(*shuffled, *scene.call()[5:], backend=backend)
    assert torch.allclose(image, other, atol=1e-6) and torch.allclose(alpha, other_alpha, atol=1e-6)


def test_equal_depths_keep_the_order_of_indices(backend):
    image, _, _ = _stack([2.0, 2.0], [0.9, 0.9], [[1.0, 0.0], [0.0, 1.0]], backend=backend)
    assert torch.allclose(image[0, 8, 8], torch.tensor([0.9, 0.09]), atol=1e-3)


def test_turning_world_and_cameras_together_changes_nothing(backend, make_scene):
    scene = make_scene()
    half = math.sqrt(0.5)  # 90 degrees about x: (x, y, z) -> (x, -z, y); quaternion product with (half, half, 0, 0)
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
    w, x, y, z = scene.quats.unbind(-1)
    quats = half * torch.stack([w - x, x + w, y - z, z + y], dim=-1)
    viewmats = scene.viewmats.clone()
    viewmats[:, :3, :3] = viewmats[:, :3, :3] @ turn.T
    image, _, _ = rasterise(*scene.call(), backend=backend)
    turned = (scene.means @ turn.T, quats, *scene.gaussians[2:], viewmats, *scene.call()[6:])
    assert torch.allclose(image, rasterise(*turned, backend=backend)[0], atol=1e-4)


def test_channels_are_independent(backend, make_scene):
    scene = make_scene(channels=5)
    image, _, _ = rasterise(*scene.call(), backend=backend)
    scene.colors = scene.colors[:, 3:4]
    one, _, _ = rasterise(*scene.call(), backend=backend)
    assert torch.allclose(image[..., 3:4], one, atol=1e-6) and image.shape[-1] == 5


def test_per_camera_colours_and_sh(backend, make_scene):
    scene = make_scene()
    image, _, _ = rasterise(*scene.call(), backend=backend)
    scene.colors = scene.colors.expand(2, -1, -1)
    assert torch.equal(rasterise(*scene.call(), backend=backend)[0], image)
    coefficients = torch.zeros(60, 16, 3)
    coefficients[:, 0] = (scene.colors[0] - 0.5) / 0.28209479177387814
    scene.colors = coefficients
    assert torch.allclose(rasterise(*scene.call(), sh_degree=3, backend=backend)[0], image, atol=1e-5)


def test_nothing_to_draw_gives_background_and_zero_gradients(backend, make_scene):
    for scene in (make_scene(count=0), make_scene(count=3)):
        scene = scene.to(torch.float32)
        viewmats = scene.viewmats.clone()
        viewmats[:, 2, 3] = -50.0  # everything is behind
        backgrounds = torch.full((2, 3), 0.25)
        image, alpha, _ = rasterise(
            *scene.gaussians, viewmats, *scene.call()[6:], backgrounds=backgrounds, backend=backend
        )
        assert (image == 0.25).all() and (alpha == 0).all()
        (image.sum() + alpha.sum()).backward()
        assert all(t.grad is None or (t.grad == 0).all() for t in scene.gaussians)


def test_meta_is_what_density_control_needs(backend, make_scene):
    scene = make_scene().to(torch.float32)
    image, _, meta = rasterise(*scene.call(), absgrad=True, backend=backend)
    image.sum().backward()
    assert meta["means2d"].grad.shape == (2, 60, 2) and meta["means2d"].absgrad.shape == (2, 60, 2)
    assert (meta["means2d"].absgrad >= meta["means2d"].grad.abs() - 1e-5).all()
    assert (meta["width"], meta["height"], meta["n_cameras"], meta["gaussian_ids"]) == (37, 21, 2, None)
    assert meta["radii"].shape == (2, 60, 2) and meta["backend"] == backend


def test_autocast_does_not_touch_the_picture(backend, make_scene):
    scene = make_scene()
    image, _, _ = rasterise(*scene.call(), backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rasterise(*scene.call(), backend=backend)[0], image)


def test_reference_runs_forward_and_backward_without_data(make_scene):
    scene = make_scene(count=7)
    tensors = [t.to("meta").requires_grad_() for t in scene.gaussians]
    cameras = (scene.viewmats.to("meta"), scene.Ks.to("meta"), 37, 21)
    image, alpha, meta = rasterise(*tensors, *cameras, render_mode="RGB+ED", rasterize_mode="antialiased", absgrad=True)
    assert meta["backend"] == "reference" and image.shape == (2, 21, 37, 4)
    (image.sum() + alpha.sum()).backward()
    assert all(t.grad.device.type == "meta" for t in tensors) and meta["means2d"].absgrad.shape == (2, 7, 2)


def test_reference_in_strips_is_the_same(make_scene, monkeypatch):
    from renderers.gaussians import reference

    results = []
    for entries in (reference.STRIP_ENTRIES, 60 * 100):
        monkeypatch.setattr(reference, "STRIP_ENTRIES", entries)
        scene = make_scene().to(torch.float64)
        image, _, meta = rasterise(*scene.call(), absgrad=True)
        image.square().sum().backward()
        results.append([image, scene.means.grad, meta["means2d"].absgrad])
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(*results, strict=True))


def test_auto_chooses_by_device_and_dtype(make_scene):
    scene = make_scene(count=2)
    assert choose_backend("auto", scene.means) == "cpu"
    assert choose_backend("auto", scene.means.double()) == "reference"
    assert choose_backend("auto", scene.means.to("meta")) == "reference"
    assert available_backends()["reference"] == "available"


def test_without_numba_auto_falls_back(make_scene, monkeypatch):
    monkeypatch.setattr(rasterise_module.cpu, "probe", lambda: "numba is not installed: pip install numba")
    assert choose_backend("auto", torch.zeros(1, 3)) == "reference"
    with pytest.raises(BackendError, match=r"'cpu' cannot run here: numba is not installed: pip install numba. Or use"):
        choose_backend("cpu", torch.zeros(1, 3))


@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "backgrounds"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_named(backend, make_scene, name, value):
    """The last Gaussian of 67 does not fill a vector; both back ends look at it."""
    scene, backgrounds = make_scene(count=67), torch.zeros(2, 3)
    tensor = backgrounds if name == "backgrounds" else getattr(scene, name)
    tensor.view(-1)[-1] = value
    message = rf"{name} is {value} at \[.*\] \(1 such values\), but every value must be finite. Look for"
    with pytest.raises(ConfigError, match=message) as caught:
        rasterise(*scene.call(), backgrounds=backgrounds, backend=backend)
    assert caught.value.path == name


def test_quaternions_without_length_are_named(backend, make_scene):
    scene = make_scene()
    scene.quats[7] = 0.0
    with pytest.raises(ConfigError, match=r"quats has length 0 at \[7\], but a rotation needs a length above 0. Use 1"):
        rasterise(*scene.call(), backend=backend)
    scene.quats[7] = torch.tensor([1e-6, 0.0, 0.0, 0.0])  # short, but a rotation
    rasterise(*scene.call(), backend=backend)


def test_huge_values_are_not_taken_for_infinities(backend, make_scene):
    scene = make_scene()
    scene.means[3] = torch.tensor([3e38, 3e38, -3e38])
    scene.scales[5] = 1e12
    image, alpha, _ = rasterise(*scene.call(), backend=backend)
    assert image.isfinite().all() and alpha.isfinite().all()


def test_values_are_not_looked_at_on_other_devices(make_scene):
    scene = make_scene(count=7)
    scene.means[0] = math.nan
    tensors = [t.to("meta") for t in (*scene.gaussians, scene.viewmats, scene.Ks)]
    assert rasterise(*tensors, 37, 21)[0].shape == (2, 21, 37, 3)  # a look at a value would raise


def test_kinds_of_tensors_are_named(make_scene):
    scene = make_scene()
    with pytest.raises(ConfigError, match=r"means is of type ndarray, but a torch.Tensor is needed. Convert it."):
        rasterise(scene.means.numpy(), *scene.call()[1:])
    with pytest.raises(ConfigError, match=r"means is int64, but float32 or float64 is needed. Call .float\(\)."):
        rasterise(scene.means.long(), *scene.call()[1:])
    with pytest.raises(ConfigError, match=r"Ks is float64, but means is float32. Convert one of them: all must be the"):
        rasterise(*scene.call()[:6], scene.Ks.double(), 37, 21)
    with pytest.raises(ConfigError, match=r"quats is on meta, but means is on cpu. Move one of them: all must be tog"):
        rasterise(scene.means, scene.quats.to("meta"), *scene.call()[2:])
    with pytest.raises(ShapeError, match=r"viewmats has shape \[0, 4, 4\], but \[C >= 1, 4, 4\] is needed"):
        rasterise(*scene.gaussians, scene.viewmats[:0], scene.Ks[:0], 37, 21)
    with pytest.raises(ShapeError, match=r"means has shape \[180\], but \[N, 3\] is needed"):
        rasterise(scene.means.flatten(), *scene.call()[1:])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64])
def test_kinds_of_numbers_that_cannot_hold_positions_are_named(make_scene, dtype):
    tensors = [t.to(dtype) for t in make_scene().call()[:7]]
    with pytest.raises(ConfigError, match=r"means is \w+, but float32 or float64 is needed. Call .float\(\)."):
        rasterise(*tensors, 37, 21)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("near_plane", math.nan, r"near_plane is nan, but must be above 0"),
        ("near_plane", 0.0, r"near_plane is 0.0, but must be above 0"),
        ("far_plane", math.nan, r"far_plane is nan, but must be 0 or more"),
        ("eps2d", math.nan, r"eps2d is nan, but must be 0 or more and finite"),
        ("eps2d", math.inf, r"eps2d is inf, but must be 0 or more and finite"),
        ("eps2d", -0.1, r"eps2d is -0.1, but must be 0 or more"),
        ("radius_clip", math.nan, r"radius_clip is nan, but must be 0 or more"),
        ("near_plane", None, r"near_plane is of type NoneType, but a number is needed"),
        ("eps2d", torch.tensor(0.3), r"eps2d is of type Tensor, but a number is needed. Call float\(\)."),
        ("sh_degree", 4, r"sh_degree is 4, but 0 to 3, or None for plain features, is supported"),
        ("sh_degree", -1, r"sh_degree is -1, but 0 to 3"),
        ("sh_degree", 1.5, r"sh_degree is 1.5, but 0 to 3"),
        ("render_mode", None, r"render_mode is 'None', which is unknown"),
    ],
)
def test_options_that_draw_nothing_are_named(backend, make_scene, name, value, message):
    """A threshold of NaN would cull everything: a black picture without a word."""
    with pytest.raises(ConfigError, match=message) as caught:
        rasterise(*make_scene().call(), backend=backend, **{name: value})
    assert caught.value.path == name


def test_a_wrong_size_is_named_and_leaves_no_trace(backend, make_scene):
    """What is kept of a size is found by equality, and 19.0 == 19: no float may get in."""
    scene = make_scene()
    tensors = scene.call()[:7]
    for width in (19.0, 19.5, "19", None):
        with pytest.raises(ConfigError, match=r"width is .*, but a whole number of pixels is needed. Call int"):
            rasterise(*tensors, width, 23, backend=backend)
    with pytest.raises(ConfigError, match=r"height is 23.0, but a whole number"):
        rasterise(*tensors, 19, 23.0, backend=backend)
    assert rasterise(*tensors, 19, 23, backend=backend)[0].shape == (2, 23, 19, 3)
    assert rasterise(*tensors, np.int64(19), np.int32(23), backend=backend)[0].shape == (2, 23, 19, 3)


@pytest.mark.parametrize("learns_cameras", [False, True])
def test_cameras_that_cannot_see_are_named(backend, make_scene, learns_cameras):
    for axis, value in ((0, 0.0), (1, 0.0), (1, -20.0)):
        scene = make_scene()
        scene.Ks[1, axis, axis] = value
        scene.Ks.requires_grad_(learns_cameras)
        with pytest.raises(
            ConfigError, match=r"Ks has a focal length of 0 or below in camera 1, but needs above 0, in"
        ):
            rasterise(*scene.call(), backend=backend)
    scene = make_scene()
    scene.viewmats = scene.viewmats.clone()
    scene.viewmats[0] = 0.0
    scene.viewmats.requires_grad_(learns_cameras)
    with pytest.raises(ConfigError, match=r"viewmats has a rotation whose third row is 0 in camera 0, but needs a dir"):
        rasterise(*scene.call(), backend=backend)


def test_what_passed_once_does_not_excuse_others(make_scene):
    """Good combinations of shapes are remembered; every other one is still looked at."""
    scene = make_scene()
    rasterise(*scene.call())
    with pytest.raises(ShapeError, match=r"scales has shape \[59, 3\], but \[60, 3\] is needed"):
        rasterise(scene.means, scene.quats, scene.scales[1:], *scene.call()[3:])
    with pytest.raises(ConfigError, match=r"colors is float64, but means is float32"):
        rasterise(*scene.gaussians[:4], scene.colors.double(), *scene.call()[5:])
    with pytest.raises(ShapeError, match=r"colors has shape \[60, 3\], but \[60, K, 3\] or \[2, 60, K, 3\] is needed"):
        rasterise(*scene.call(), sh_degree=1)
    with pytest.raises(ConfigError, match=r"opacities is nan at \[3\]"):
        scene.opacities[3] = math.nan
        rasterise(*scene.call())


def test_messages(make_scene):
    scene = make_scene()
    with pytest.raises(ConfigError, match=r"render_mode is 'RGBD', which is unknown. Use 'RGB"):
        rasterise(*scene.call(), render_mode="RGBD")
    with pytest.raises(ConfigError, match=r"rasterize_mode is 'soft', which is unknown"):
        rasterise(*scene.call(), rasterize_mode="soft")
    with pytest.raises(ConfigError, match=r"backend is 'gpu', which is unknown"):
        rasterise(*scene.call(), backend="gpu")
    with pytest.raises(BackendError, match=r"given float64 tensors on cpu, but needs float32 on cpu"):
        rasterise(*scene.to(torch.float64).call(), backend="cpu")
    with pytest.raises(ConfigError, match=r"image size is 0x21"):
        rasterise(*scene.gaussians, scene.viewmats, scene.Ks, 0, 21)
    with pytest.raises(ShapeError, match=r"backgrounds has shape \[3\], but \[2, 3\] is needed"):
        rasterise(*scene.call(), backgrounds=torch.zeros(3))
    scene.quats = scene.quats[:, :3]
    with pytest.raises(ShapeError, match=r"quats has shape \[60, 3\], but \[60, 4\] is needed"):
        rasterise(*scene.call())
    scene = make_scene()
    scene.colors = scene.colors[:5]
    with pytest.raises(ShapeError, match=r"colors has shape \[5, 3\], but \[60, D\] or \[2, 60, D\] is needed"):
        rasterise(*scene.call())
