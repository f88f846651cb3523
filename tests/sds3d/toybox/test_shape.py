import numpy as np
import pytest

from sds3d.toybox.captions import Description
from sds3d.toybox.dataset import build
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS
from sds3d.toybox.raster import render_rgba, render_view
from sds3d.toybox.shape import RADIUS, Shape, rotation


def signed_volume(corners: np.ndarray) -> float:
    return float(np.einsum("fi,fi->f", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])).sum() / 6)


def camera(azimuth_deg: float = 0.0, elevation_deg: float = 0.0, distance: float = 2.5) -> np.ndarray:
    import torch

    from sds3d.cameras import orbit

    one = torch.ones(1)
    return orbit(one * azimuth_deg, one * elevation_deg, one * distance, 45.0, 64, 64).cam_to_world[0].numpy()


def raw(shape: Shape) -> np.ndarray:
    return np.concatenate([piece[0] for piece in shape._pieces])


def test_primitives_enclose_the_volume_they_should_with_normals_outward():
    box = Shape(main=(1, 0, 0))
    box.box((1.0, 2.0, 3.0))
    assert signed_volume(raw(box)) == pytest.approx(6.0, rel=1e-5)
    ball = Shape(main=(1, 0, 0))
    ball.ellipsoid((1.0, 1.0, 2.0), segments=64, rings=48)
    assert signed_volume(raw(ball)) == pytest.approx(4 / 3 * np.pi * 2, rel=0.01)
    can = Shape(main=(1, 0, 0))
    can.lathe([(0, 0), (1, 0), (1, 2), (0, 2)], segments=96)
    assert signed_volume(raw(can)) == pytest.approx(2 * np.pi, rel=0.01)
    rod = Shape(main=(1, 0, 0))
    rod.rod((0.3, 0.1, -1), (1, 2, 0.5), 0.2, segments=96)
    length = np.linalg.norm([0.7, 1.9, 1.5])
    assert signed_volume(raw(rod)) == pytest.approx(np.pi * 0.04 * length, rel=0.01)
    plate = Shape(main=(1, 0, 0))
    plate.extrude([(-1, -1), (1, -1), (1, 1), (-1, 1)], 0.5)
    assert signed_volume(raw(plate)) == pytest.approx(2.0, rel=1e-5)


def test_rotation_is_right_handed():
    assert np.allclose(rotation("z", 90) @ [1, 0, 0], [0, 1, 0], atol=1e-6)
    assert np.allclose(rotation("x", 90) @ [0, 1, 0], [0, 0, 1], atol=1e-6)
    assert np.allclose(rotation("y", 90) @ [0, 0, 1], [1, 0, 0], atol=1e-6)


@pytest.mark.parametrize("noun", NOUNS)
def test_every_noun_is_normalised_and_within_its_budget(noun):
    mesh = build(Description(noun=noun, color="red"), np.random.default_rng(3))
    points = mesh.corners.reshape(-1, 3)
    assert 200 <= len(mesh.corners) <= 3200
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(RADIUS, rel=1e-4)
    assert np.allclose(points.min(axis=0) + points.max(axis=0), 0, atol=1e-4)
    assert np.allclose(np.linalg.norm(mesh.normals, axis=2), 1, atol=1e-3)
    red = np.abs(mesh.colors - COLORS["red"]).max(axis=1) < 0.05
    edges = mesh.corners[:, 1:] - mesh.corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    assert area[red].sum() > 0.1 * area.sum()  # the main colour is there to see


@pytest.mark.parametrize("noun", ASYMMETRIC)
def test_front_and_back_of_asymmetric_nouns_differ(noun):
    mesh = build(Description(noun=noun, color="cyan"), np.random.default_rng(1))
    front, back = (render_rgba(mesh, camera(azimuth, 10), 64).astype(int) for azimuth in (0, 180))
    # A mug's back is its mirrored front: only the unmirrored pictures must differ.
    assert np.abs(front - back).mean() > 1.0


def test_equal_generators_give_equal_specimens_and_others_differ():
    what = Description(noun="robot", color="blue")
    first, again, other = (build(what, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert np.array_equal(first.corners, again.corners) and np.array_equal(first.colors, again.colors)
    assert first.corners.shape != other.corners.shape or not np.allclose(first.corners, other.corners)


def test_attributes_change_the_object():
    plain, tall, based = (
        build(Description(noun="lamp", color="red", height=height, has_base=base), np.random.default_rng(0))
        for height, base in (("", False), ("tall", False), ("", True))
    )

    def slimness(mesh):
        extent = np.ptp(mesh.corners.reshape(-1, 3), axis=0)
        return extent[2] / extent[:2].max()

    assert slimness(tall) == pytest.approx(1.4 * slimness(plain), rel=1e-3)
    assert "base" in based.part_names and "base" not in plain.part_names


def test_a_sphere_renders_with_the_area_depth_and_normals_of_its_perspective_image():
    shape = Shape(main=(0.8, 0.2, 0.1))
    shape.ellipsoid((1, 1, 1), segments=96, rings=64)
    view = render_view(shape.mesh(), camera(distance=2.5), 64)
    focal = 32 / np.tan(np.radians(22.5))
    # The outline of a sphere of radius r at distance d is a circle of radius f r / sqrt(d^2 - r^2).
    radius = focal * RADIUS / np.sqrt(2.5**2 - RADIUS**2)
    assert view.alpha.sum() == pytest.approx(np.pi * radius**2, rel=0.01)
    assert view.depth[32, 32] == pytest.approx(2.5 - RADIUS, abs=0.01)
    assert np.allclose(view.normal[32, 32], [1, 0, 0], atol=0.05)
    # Facing the camera: ambient + headlight + half of the sky.
    assert view.rgb[32, 32, 0] == pytest.approx(0.8 * (0.38 + 0.47 + 0.075), abs=0.01)
    assert view.part[32, 32] == 0 and view.part[0, 0] == -1


def test_picture_axes_left_of_the_object_is_on_the_right_of_its_front_view():
    shape = Shape(main=(1, 0, 0))
    shape.box((0.5, 0.5, 0.5))
    shape.box((0.2, 0.2, 0.2), color="white", at=(0, 1.0, 0))
    shape.box((0.2, 0.2, 0.2), color="black", at=(0, 0, 1.0))
    image = render_view(shape.mesh(), camera(), 64).albedo
    white, black = (np.argwhere(np.abs(image - value).max(axis=-1) < 0.02) for value in (0.96, 0.055))
    assert white[:, 1].mean() > 36  # +Y is to the right seen from +X
    assert black[:, 0].mean() < 28  # +Z is up


def test_stripes_cut_the_main_colour_into_bands():
    what = Description(noun="mug", color="red", is_striped=True)
    view = render_view(build(what, np.random.default_rng(0)), camera(180), 64)
    column = view.albedo[:, 32, 1][view.alpha[:, 32] == 1]  # green is low in red, high in white
    changes = np.abs(np.diff((column > 0.5).astype(int))).sum()
    assert changes >= 5
