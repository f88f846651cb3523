"""Anything made of points, moving: the same motion takes Gaussians, meshes and strokes to the same places. B2, B13, B14."""

from __future__ import annotations

import pytest
import torch

from renderers.dynamic import DynamicRenderer
from renderers.gaussians.parameters import Gaussians
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from renderers.isosurface.geometry import MeshGeometry
from renderers.motion.base import Motion, build_motion
from renderers.motion.bases import Basis
from renderers.motion.fields import Direct, Still
from renderers.motion.similarity import (
    SimilarityTrack,
    quaternion_from_vector,
    quaternion_product,
    rotation_from_quaternion,
)
from renderers.surface import SurfaceRenderer
from renderers.surface_texture import VertexTexture, space_texture
from sds3d.cameras import orbit
from sds3d.config.motion import MotionConfig
from sds3d.config.surface import ShadingConfig, TextureConfig
from sds3d.errors import ConfigError, ShapeError

FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [1, 2, 3], [2, 0, 3]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(count=6, seed=0):
    return 0.4 * torch.randn(count, 3, generator=generator(seed))


def gaussians(means, backend="reference"):
    count = len(means)
    values = Gaussians(
        means=means,
        quats=torch.randn(count, 4, generator=generator(1)),
        log_scales=torch.randn(count, 3, generator=generator(2)) * 0.3 - 2.0,
        opacity_logits=torch.ones(count),
        sh0=torch.randn(count, 3, generator=generator(3)),
    )
    return GaussianRenderer(values, GaussianSettings(backend=backend))


def tetrahedron(moves=False):
    vertices = torch.tensor([[0.0, 0.5, -0.3], [-0.5, -0.4, -0.3], [0.5, -0.4, -0.3], [0.0, 0.0, 0.6]])
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.1], [0.1, 0.1, 0.9], [0.8, 0.8, 0.1]])
    light = ShadingConfig(kind="none")
    return SurfaceRenderer(
        MeshGeometry(vertices, FACES, moves), VertexTexture(colors, FACES), light, backend="reference"
    )


def views(count, size=12):
    full = torch.ones(count)
    return orbit(torch.arange(count) * 50.0, 15.0 * full, 2.5 * full, 45.0, size, size), torch.ones(count, 3)


def motion_of(points, seed=4, scale=True, bent=True):
    """Return a motion with random parameters."""
    basis = Basis("polynomial", 5, 2)
    motion = Motion(SimilarityTrack(basis, scale), Direct(points, basis) if bent else Still())
    with torch.no_grad():
        for parameter in motion.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator(seed)))
    return motion


def test_without_a_time_and_at_time_0_it_is_the_static_renderer_bit_for_bit():
    for inner in (gaussians(cloud()), tetrahedron(), tetrahedron(moves=True)):
        cameras, background = views(2)
        with torch.no_grad():
            expected = inner(cameras, background)
            dynamic = DynamicRenderer(inner, motion_of(len(inner.means) if hasattr(inner, "means") else 4))
            for time in (None, [0.0], torch.zeros(1)):
                found = dynamic(cameras, background, time)
                assert torch.allclose(found.rgb, expected.rgb, atol=1e-6)
                assert torch.equal(found.extras["moved"].points[0], dynamic.handle.points())
            assert not torch.allclose(dynamic(cameras, background, [1.0]).rgb, expected.rgb, atol=1e-3)


def test_the_same_motion_takes_gaussians_meshes_and_strokes_to_the_same_places():
    from renderers.sketch.renderer import SketchRenderer
    from renderers.sketch.strokes import Strokes

    mesh = tetrahedron()
    places, motion = mesh.geometry.vertices.clone(), motion_of(4)
    sketch = SketchRenderer(Strokes.of(places[None], half_width=0.02))
    cameras, background = views(3)
    for inner in (gaussians(places), mesh, sketch):
        render = DynamicRenderer(inner, motion)(cameras, background, [0.0, 0.4, 1.0])
        extras, moved = render.extras["frames"][2].extras, render.extras["moved"].points
        assert torch.equal(moved, motion(places, torch.tensor([0.0, 0.4, 1.0])).points)
        if "means" in extras:
            assert torch.equal(extras["means"], moved[2])
        elif "surface" in extras:
            assert torch.equal(extras["surface"].vertices, moved[2])
        else:
            assert torch.allclose(extras["samples"][0, 0], moved[2, 0]) and torch.allclose(
                extras["samples"][0, -1], moved[2, 3]
            )
        assert render.rgb.shape == (3, 12, 12, 3) and render.alpha.shape == (3, 12, 12, 1)


def test_frames_are_group_major_and_each_is_the_posed_static_picture():
    for inner in (gaussians(cloud()), tetrahedron(moves=True)):
        count = len(inner.means) if isinstance(inner, GaussianRenderer) else 4
        dynamic = DynamicRenderer(inner, motion_of(count))
        cameras, background = views(6)
        times = [0.1, 0.5, 0.9]
        with torch.no_grad():
            found = dynamic(cameras, background, times)
            for row in range(6):
                with dynamic.posed(times[row % 3]):
                    expected = inner(cameras[row : row + 1], background[:1])
                assert torch.allclose(found.rgb[row], expected.rgb[0], atol=1e-5)
                assert torch.allclose(found.depth[row], expected.depth[0], atol=1e-4)
            with dynamic.posed(0.0):
                assert torch.allclose(inner(cameras, background).rgb, dynamic(cameras, background).rgb, atol=1e-6)


def test_covariances_of_gaussians_turn_with_the_similarity():
    """B2: S -> s^2 R S R^T; composition and inverse; the sign of a quaternion is irrelevant."""

    def covariances(quats, log_scales):
        axes = rotation_from_quaternion(quats) * log_scales.exp()[:, None]
        return axes @ axes.transpose(1, 2)

    inner = gaussians(cloud())
    motion = motion_of(6, bent=False)
    dynamic = DynamicRenderer(inner, motion)
    moved = dynamic.at([1.0])
    values = dynamic.handle.values(moved, 0)
    scale, turn = moved.similarity.scale[0], moved.similarity.rotation[0]
    before, after = covariances(inner.quats, inner.log_scales), covariances(values["quats"], values["log_scales"])
    assert torch.allclose(after, scale**2 * turn @ before @ turn.T, atol=1e-6)
    assert torch.allclose(covariances(-values["quats"], values["log_scales"]), after)
    vector = torch.tensor([0.3, -0.8, 0.5])
    there, back = quaternion_from_vector(vector), quaternion_from_vector(-vector)
    again = quaternion_product(back.expand(6, 4), quaternion_product(there.expand(6, 4), inner.quats))
    assert torch.allclose(covariances(again, inner.log_scales), before, atol=1e-6)


def test_a_similarity_of_the_object_is_the_opposite_motion_of_the_camera():
    """The whole cloud turned by R looks from a camera as the resting cloud from the camera turned back."""
    inner = gaussians(cloud())
    motion = motion_of(6, bent=False, scale=False)
    with torch.no_grad():
        motion.similarity.rotation.zero_()
        motion.similarity.translation.zero_()
        motion.similarity.rotation[0, 2] = torch.pi / 2
        inner.means -= inner.means.mean(dim=0)
        full = torch.ones(1)
        here = orbit(30.0 * full, 15.0 * full, 2.5 * full, 45.0, 16, 16)
        there = orbit(-60.0 * full, 15.0 * full, 2.5 * full, 45.0, 16, 16)
        dynamic = DynamicRenderer(inner, motion)
        turned, back = dynamic(here, torch.ones(1, 3), [1.0]).rgb, dynamic(there, torch.ones(1, 3), [0.0]).rgb
    assert torch.allclose(turned, back, atol=1e-4) and back.std() > 0.05


def test_image_gradients_reach_the_motion_and_not_the_frozen_asset():
    for frozen in (True, False):
        inner = gaussians(cloud())
        dynamic = DynamicRenderer(inner, motion_of(6), is_frozen=frozen)
        cameras, background = views(2)
        dynamic(cameras, background, [0.3, 1.0]).rgb.square().sum().backward()
        for name, parameter in dynamic.motion.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
        assert (inner.means.grad is None) == frozen and (inner.sh0.grad is None) == frozen


def test_deferred_backward_by_frame_is_the_full_gradient_and_a_subset_is_unbiased():
    """B13."""
    dynamic = DynamicRenderer(gaussians(cloud()), motion_of(6))
    cameras, background = views(4)
    times = [0.1, 0.4, 0.7, 1.0]
    given = torch.randn(4, 12, 12, 3, generator=generator(9))

    def gradient(frames):
        dynamic.zero_grad()
        for frame in frames:
            part = slice(frame, frame + 1)
            (dynamic(cameras[part], background[part], times[part]).rgb * given[part]).sum().backward()
        return torch.cat([parameter.grad.flatten() for parameter in dynamic.motion.parameters()])

    dynamic.zero_grad()
    (dynamic(cameras, background, times).rgb * given).sum().backward()
    full = torch.cat([parameter.grad.flatten() for parameter in dynamic.motion.parameters()])
    assert torch.allclose(gradient(range(4)), full, rtol=1e-4, atol=1e-5)
    pairs = [(a, b) for a in range(4) for b in range(a)]
    mean = torch.stack([gradient(pair) for pair in pairs]).mean(dim=0) * 4 / 2
    assert torch.allclose(mean, full, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["still", "direct", "nodes", "hexplane", "mlp"])
def test_a_whole_step_runs_on_the_meta_device(kind):
    """B14: nothing waits for values."""
    settings = {"hexplane": {"channels": 2, "resolution": 4, "scales": (1,)}}.get(kind, {})
    inner = gaussians(cloud(20))
    motion = build_motion(MotionConfig(frames=4, field={"kind": kind, **settings}), inner.means, generator())
    dynamic = DynamicRenderer(inner, motion).to("meta")
    cameras, background = views(6)
    render = dynamic(cameras.to("meta"), background.to("meta"), [0.0, 0.5, 1.0])
    loss = render.rgb.square().mean() + sum(term for _, term in dynamic.regularisers(render))
    loss.backward()
    assert all(parameter.grad is not None for parameter in motion.parameters())


def test_terms_have_the_names_of_the_configuration_and_only_those_wanted_are_computed():
    cameras, background = views(3)
    known = set(MotionConfig.REGULARISERS)
    for inner, extra in ((gaussians(cloud()), set()), (tetrahedron(), {"motion_length"})):
        count = 4 if extra else 6
        dynamic = DynamicRenderer(inner, motion_of(count))
        render = dynamic(cameras, background, [0.0, 0.5, 1.0])
        found = dict(dynamic.regularisers(render))
        assert {name for name in found if name.startswith("motion")} == extra | {
            name for name in known if "plane" not in name and "time" not in name and name != "motion_length"
        }
        assert all(torch.isfinite(term) for term in found.values())
        assert set(dict(inner.regularisers(render.extras["frames"][0]))) <= set(found)
        few = DynamicRenderer(inner, motion_of(count), wanted=["motion_loop"])
        assert [n for n, _ in few.regularisers(render) if n.startswith("motion")] == ["motion_loop"]
    rest = DynamicRenderer(tetrahedron(), motion_of(4))
    assert all(torch.isfinite(term) for _, term in rest.regularisers(rest(cameras, background)))


def test_groups_of_a_frozen_and_of_a_training_asset():
    rates = {name: 0.1 for name in MotionConfig.PARAMETERS}
    inner = gaussians(cloud())
    frozen = DynamicRenderer(inner, motion_of(6))
    names = [group["name"] for group in frozen.parameter_groups(rates)]
    assert names == ["motion_rotation", "motion_translation", "motion_log_scale", "motion_field"]
    with pytest.raises(ConfigError, match="no parameter group 'means'"):
        frozen.parameter_groups(rates | {"means": 0.1})
    both = DynamicRenderer(gaussians(cloud()), motion_of(6), is_frozen=False)
    gaussian_rates = dict.fromkeys(("means", "quats", "log_scales", "opacity_logits", "sh0"), 0.1)
    assert len(both.parameter_groups(rates | gaussian_rates)) == 9
    with pytest.raises(ConfigError, match="missing for means"):
        both.parameter_groups(rates)


def test_a_state_comes_back_bit_for_bit(tmp_path):
    first, second = (DynamicRenderer(gaussians(cloud()), motion_of(6, seed=seed)) for seed in (4, 5))
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt"))
    assert torch.equal(first.at([0.7]).points, second.at([0.7]).points)


def test_a_recorded_motion_plays_the_same_positions_from_files(tmp_path):
    """From the renderer through a .glb file to the same places; strokes keep their layout."""
    import numpy as np

    from renderers.sketch.renderer import SketchRenderer
    from renderers.sketch.strokes import Strokes
    from sds3d.clip_times import frame_times
    from sds3d.export.moving.gltf import positions_at, write_moving_mesh
    from sds3d.export.sketch.sketch import Sketch
    from sds3d.meshing.mesh import Mesh

    inner, times = tetrahedron(), frame_times(4)
    dynamic = DynamicRenderer(inner, motion_of(4))
    recorded, points = dynamic.recorded(times, fps=12), dynamic.at(times).points.detach().numpy()
    mesh = Mesh(inner.geometry.vertices.numpy(), FACES.numpy(), np.ones((4, 3)))
    for frame in range(4):
        assert np.abs(positions_at(mesh, recorded, frame) - points[frame]).max() < 1e-6
    assert write_moving_mesh(tmp_path / "moving.glb", mesh, recorded).stat().st_size > 500
    strokes = SketchRenderer(Strokes.of(cloud(8).view(2, 4, 3), half_width=0.02))
    moving = DynamicRenderer(strokes, motion_of(8))
    sketch = Sketch(
        points=strokes.points.detach().numpy(),
        half_widths=np.full(2, 0.02),
        opacities=np.ones(2),
        colours=np.zeros((2, 3)),
        motion=moving.recorded(times),
    )
    expected = moving.at(times).points.detach().numpy()
    assert np.abs(sketch.points_at(3).reshape(-1, 3) - expected[3]).max() < 1e-6
    still = DynamicRenderer(tetrahedron(), motion_of(4, bent=False))
    assert still.recorded(times).offsets is None


def test_wrong_times_cameras_and_renderers_are_refused():
    dynamic = DynamicRenderer(gaussians(cloud()), motion_of(6))
    cameras, background = views(4)
    for time in ([-0.1], [0.5, 1.2], [float("nan")]):
        with pytest.raises(ConfigError, match=r"outside the clip.*\[0, 1\]"):
            dynamic(cameras, background, time)
    with pytest.raises(ConfigError, match="no time to show"):
        dynamic(cameras, background, [])
    with pytest.raises(ShapeError, match="a multiple of 3"):
        dynamic(cameras, background, [0.0, 0.5, 1.0])
    with pytest.raises(ShapeError, match=r"background"):
        dynamic(cameras, background[:2], [0.0, 0.5])
    with pytest.raises(ShapeError, match=r"time has shape \[1, 2\]"):
        dynamic(cameras, background, torch.zeros(1, 2))
    with pytest.raises(ConfigError, match=r"cannot move: it has no points"):
        DynamicRenderer(dynamic, motion_of(6))
    grid = space_texture(TextureConfig(kind="grid", resolution=4), 1.0, generator())
    mesh = SurfaceRenderer(MeshGeometry(torch.eye(4)[:, :3], FACES), grid)
    with pytest.raises(ConfigError, match=r"belong to places in space.*export the mesh"):
        DynamicRenderer(mesh, motion_of(4))
