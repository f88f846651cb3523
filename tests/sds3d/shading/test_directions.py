"""Where texels are: solid angles, places and directions are each other's inverse."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.shading import directions


@pytest.mark.parametrize("resolution", [1, 5, 32])
def test_solid_angles_make_a_sphere(resolution):
    area = directions.cube_solid_angles(resolution)
    assert float(area.sum()) == pytest.approx(4 * math.pi, abs=1e-6)
    assert torch.allclose(area, area.flip(1), rtol=1e-9) and torch.allclose(area, area.mT, rtol=1e-9)
    rows = directions.latlong_solid_angles(resolution) * 2 * resolution
    assert float(rows.sum()) == pytest.approx(4 * math.pi, abs=1e-6)


def test_each_texel_is_found_where_it_is():
    face, x, y = directions.face_places(directions.cube_directions(6))
    centre = (torch.arange(6) + 0.5) / 3 - 1
    assert bool((face == torch.arange(6)[:, None, None]).all())
    assert torch.allclose(x, centre.expand(6, 6, 6), atol=1e-6)
    assert torch.allclose(y, centre[:, None].expand(6, 6, 6), atol=1e-6)


def test_faces_lie_as_opengl_has_them():
    middle = directions.cube_directions(1).view(6, 3)
    assert middle.tolist() == [[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]
    # The upper left texel of each face: sc, tc of the OpenGL specification, table 8.19.
    corner = (directions.cube_directions(2)[:, 0, 0] * math.sqrt(1.5)).round(decimals=3)
    expected = [[1, 0.5, 0.5], [-1, 0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -1, 0.5], [-0.5, 0.5, 1], [0.5, 0.5, -1]]
    assert torch.allclose(corner, torch.tensor(expected))


def test_latitude_and_longitude_are_found_again():
    place = directions.latlong_directions(8)
    u, v = directions.latlong_places(place)
    assert torch.allclose(u, ((torch.arange(16) + 0.5) / 16).expand(8, 16), atol=1e-6)
    assert torch.allclose(v, ((torch.arange(8) + 0.5) / 8)[:, None].expand(8, 16), atol=1e-6)


def test_the_middle_column_looks_to_the_front_and_the_left_is_further_on():
    front, left, up = torch.eye(3)
    u, v = directions.latlong_places(torch.stack([front, left, -left, up]))
    assert u[:3].tolist() == pytest.approx([0.5, 0.25, 0.75]) and v.tolist() == pytest.approx(
        [0.5, 0.5, 0.5, 0.0], abs=1e-6
    )


def test_poles_have_finite_gradients():
    pole = torch.tensor([[0.0, 0.0, 1.0]], requires_grad=True)
    sum(value.sum() for value in directions.latlong_places(pole)).backward()
    assert bool(torch.isfinite(pole.grad).all())
