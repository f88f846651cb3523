"""Meshes from splats: closed, right size, right colours, never empty."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from sds3d.errors import AssetError, ConfigError, ShapeError
from sds3d.export.splats import SH_C0, Splats
from sds3d.meshing import surface
from sds3d.meshing.extinction import make_grid
from sds3d.meshing.from_splats import mesh_from_splats
from sds3d.meshing.mesh import Mesh

RED, BLUE = (0.85, 0.1, 0.1), (0.1, 0.2, 0.9)
SCALE = 0.035


def ball_with_handle(logit: float = 1.0, scale: float = SCALE, count: int = 1000) -> Splats:
    """A red ball of radius 0.5 about the origin and a blue bar from it along +X to 0.9, as Gaussians on the surface."""
    rng = np.random.default_rng(0)
    ball = rng.normal(size=(count * 4 // 5, 3))
    ball *= (0.5 - scale) / np.linalg.norm(ball, axis=1, keepdims=True)
    bar = rng.uniform(-1, 1, size=(count // 5, 3)) * [0.25, 0.08, 0.08] + [0.65, 0, 0]
    means = np.concatenate([ball, bar])
    quats = rng.normal(size=(len(means), 4))
    rgb = np.where((np.arange(len(means)) < len(ball))[:, None], RED, BLUE)
    log_scales = np.full((len(means), 3), np.log(scale))
    return Splats(means, quats, log_scales, np.full(len(means), logit), (rgb - 0.5) / SH_C0)


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    return mesh_from_splats(ball_with_handle(), resolution=48, target_faces=4000)


def assert_closed(mesh: Mesh) -> trimesh.Trimesh:
    foreign = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    assert foreign.is_watertight and foreign.is_winding_consistent and foreign.volume > 0.0
    return foreign


def test_the_mesh_is_closed_in_one_piece_with_outward_faces_and_few_triangles(mesh: Mesh) -> None:
    foreign = assert_closed(mesh)
    assert foreign.body_count == 1
    assert 1000 < len(mesh.faces) <= 4000


def test_the_mesh_has_the_size_of_the_object(mesh: Mesh) -> None:
    # The Gaussians overlap, so half of the light is gone about two standard deviations outside their centres.
    rim = 0.5 - SCALE + 2.0 * SCALE
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-rim, -rim, -rim], atol=0.03)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [0.9 + 2.0 * SCALE, rim, rim], atol=0.03)
    ball, bar = 4 / 3 * np.pi * rim**3, (0.9 - rim) * (0.16 + 3.0 * SCALE) ** 2
    assert surface.signed_volume(mesh.vertices, mesh.faces) == pytest.approx(ball + bar, rel=0.1)


def test_colours_are_those_of_the_nearest_part(mesh: Mesh) -> None:
    on_bar, on_ball = mesh.vertices[:, 0] > 0.65, mesh.vertices[:, 0] < 0.3
    np.testing.assert_allclose(mesh.colors[on_bar].mean(axis=0), BLUE, atol=0.05)
    np.testing.assert_allclose(mesh.colors[on_ball], np.broadcast_to(RED, (on_ball.sum(), 3)), atol=0.02)
    assert on_bar.sum() > 50


def test_only_the_skin_gives_its_colour() -> None:
    skin = ball_with_handle()
    rng = np.random.default_rng(1)
    core = rng.normal(size=(400, 3))
    core *= 0.3 / np.linalg.norm(core, axis=1, keepdims=True)
    green = Splats(
        core,
        np.tile([1.0, 0, 0, 0], (400, 1)),
        np.full((400, 3), -3.0),
        np.full(400, 3.0),
        np.tile([-2, 2, -2], (400, 1)),
    )
    names = ("means", "quats", "log_scales", "opacity_logits", "sh0")
    both = Splats(*(np.concatenate([getattr(skin, n), getattr(green, n)]) for n in names))
    mesh = mesh_from_splats(both, resolution=40)
    assert (mesh.colors[mesh.vertices[:, 0] < 0.3][:, 1] < 0.35).mean() > 0.9


def test_floaters_and_haze_leave_no_trace() -> None:
    rng = np.random.default_rng(2)
    splats = ball_with_handle()
    count = 40
    means = np.concatenate([rng.uniform(-3, 3, size=(count // 2, 3)), rng.normal(size=(count // 2, 3))])
    logits = np.concatenate([np.full(count // 2, 3.0), np.full(count // 2, -4.5)])
    log_scales = np.concatenate([np.full((count // 2, 3), -3.5), np.full((count // 2, 3), -0.7)])
    far = np.linalg.norm(means[:, :], axis=1) > 1.2
    dirt = Splats(means, rng.normal(size=(count, 4)), log_scales, logits, np.zeros((count, 3))).where(
        far | (logits < 0)
    )
    names = ("means", "quats", "log_scales", "opacity_logits", "sh0")
    both = Splats(*(np.concatenate([getattr(splats, n), getattr(dirt, n)]) for n in names))
    mesh = mesh_from_splats(both, resolution=40)
    assert_closed(mesh)
    np.testing.assert_allclose(mesh.vertices.min(axis=0), [-0.5, -0.5, -0.5], atol=0.06)
    np.testing.assert_allclose(mesh.vertices.max(axis=0), [0.93, 0.5, 0.5], atol=0.08)


@pytest.mark.parametrize(("logit", "scale"), [(-5.0, 0.03), (-3.0, 0.15), (4.0, 0.002), (0.0, 0.5)])
def test_never_empty_however_soft_faint_thin_or_large(logit: float, scale: float) -> None:
    mesh = mesh_from_splats(ball_with_handle(logit, scale, count=300), resolution=24)
    assert_closed(mesh)
    assert np.isfinite(mesh.vertices).all() and np.isfinite(mesh.colors).all()


def test_one_faint_gaussian_is_still_a_mesh() -> None:
    splats = ball_with_handle(-4.0).where(np.arange(1000) == 3)
    mesh = mesh_from_splats(splats, resolution=24)
    assert_closed(mesh)
    np.testing.assert_allclose(mesh.vertices.mean(axis=0), splats.means[0], atol=0.02)


@pytest.mark.parametrize("count", [1, 5])
def test_splats_that_are_only_just_drawn_are_a_mesh(count: int) -> None:
    """Opacity 1.007 / 255: visible at the centre alone, where no node of the grid need be."""
    splats = ball_with_handle(-5.53).where(np.arange(1000) < count)
    mesh = mesh_from_splats(splats, resolution=24)
    assert_closed(mesh)
    assert np.isfinite(mesh.vertices).all() and np.isfinite(mesh.colors).all()


def test_opacities_of_nan_are_an_error_too() -> None:
    splats = ball_with_handle()
    splats.opacity_logits[:] = np.nan
    with pytest.raises(AssetError, match=r"none of the 1000 Gaussians is visible \(largest opacity none\)"):
        mesh_from_splats(splats)


def test_turning_the_splats_by_a_right_angle_turns_the_mesh() -> None:
    splats = ball_with_handle()
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    turned = Splats(splats.means @ turn.T, splats.quats, splats.log_scales, splats.opacity_logits, splats.sh0)
    before, after = mesh_from_splats(splats, 32), mesh_from_splats(turned, 32)
    np.testing.assert_allclose(after.vertices.max(axis=0)[1], before.vertices.max(axis=0)[0], atol=0.03)
    np.testing.assert_allclose(
        surface.signed_volume(after.vertices, after.faces),
        surface.signed_volume(before.vertices, before.faces),
        rtol=0.03,
    )


@pytest.mark.parametrize("count", [0, 1000])
def test_no_visible_splats_is_an_error_that_says_so(count: int) -> None:
    splats = ball_with_handle(-9.0).where(np.arange(1000) < count)
    with pytest.raises(AssetError, match=rf"none of the {count} Gaussians is visible.*opacity above 1/255 is needed"):
        mesh_from_splats(splats)


@pytest.mark.parametrize(("name", "value"), [("resolution", 8), ("target_faces", 10), ("smoothing", -1)])
def test_arguments_out_of_range_are_named(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {value}, but .* is allowed"):
        mesh_from_splats(ball_with_handle(), **{name: value})


def test_extract_gives_a_closed_outward_sphere_even_with_nodes_on_the_level() -> None:
    grid = make_grid(np.full(3, -1.0), np.full(3, 1.0), 20)
    nodes = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), axis=-1)
    field = np.clip(1.0 + 2.0 * (0.7 - np.linalg.norm(grid.to_world(nodes), axis=-1)), 0.0, 2.0)
    field[np.abs(field - 1.0) < 0.05] = 1.0
    vertices, faces = surface.extract(field.astype(np.float32), grid)
    assert surface.is_closed(faces)
    assert surface.signed_volume(vertices, faces) == pytest.approx(4 / 3 * np.pi * 0.7**3, rel=0.1)
    smoothed = surface.smooth(vertices, faces, 10)
    assert surface.signed_volume(smoothed, faces) == pytest.approx(surface.signed_volume(vertices, faces), rel=0.05)
    assert np.linalg.norm(smoothed, axis=1).std() < np.linalg.norm(vertices, axis=1).std()
    points, few = surface.decimate(smoothed, faces, 300)
    assert surface.is_closed(few) and len(few) <= 360 and len(points) == few.max() + 1


def test_is_closed_sees_holes_and_flipped_triangles() -> None:
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    flipped = tetrahedron.copy()
    flipped[0] = flipped[0, ::-1]
    assert surface.is_closed(tetrahedron)
    assert not surface.is_closed(tetrahedron[1:]) and not surface.is_closed(flipped)
    assert not surface.is_closed(tetrahedron[:0])


def test_mesh_checks_its_shapes_and_knows_its_normals() -> None:
    vertices, faces = np.eye(3), np.array([[0, 1, 2]])
    mesh = Mesh(vertices, faces, vertices)
    np.testing.assert_allclose(mesh.normals, np.full((3, 3), 3**-0.5), atol=1e-6)
    with pytest.raises(ShapeError, match=r"Mesh.colors"):
        Mesh(vertices, faces, vertices[:2])
    with pytest.raises(ShapeError, match=r"Mesh.vertices has shape \[3, 3\], but more than 3 rows"):
        Mesh(vertices, faces + 1, vertices)
