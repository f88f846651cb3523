"""Latitude-longitude images: round trips, the seam, and where each convention looks."""

from __future__ import annotations

import math

import pytest
import torch

from sds3d.errors import ConfigError, ShapeError
from sds3d.shading import directions, latlong


def smooth(direction):
    x, y, z = direction.unbind(-1)
    return torch.stack([1 + 0.5 * x, 1 + 0.4 * y * z, 1 + 0.3 * z - 0.2 * x * y], dim=-1)


def test_through_an_image_and_back_nothing_is_lost():
    texels = smooth(directions.cube_directions(32))
    again = latlong.cubemap_from_latlong(latlong.latlong_from_cubemap(texels, 64), 32)
    error = (again - texels).square().mean()
    assert -10 * math.log10(float(error)) > 45
    assert torch.allclose(texels, again, atol=0.02)


def test_a_small_sun_keeps_its_energy():
    image = torch.full((64, 128, 3), 0.1)
    image[20, 30] = 500.0
    texels = latlong.cubemap_from_latlong(image, 16)
    before = (image * directions.latlong_solid_angles(64)[..., None].float()).sum()
    after = (texels * directions.cube_solid_angles(16)[..., None].float()).sum()
    assert float(after) == pytest.approx(float(before), rel=0.05)


def test_the_left_and_the_right_edge_meet():
    image = smooth(directions.latlong_directions(32))
    step = torch.tensor([1e-4, -1e-4])
    behind = torch.stack([-torch.ones(2), step, torch.zeros(2)], dim=-1)
    here, there = latlong.sample(image, torch.nn.functional.normalize(behind, dim=-1))
    assert torch.allclose(here, there, atol=1e-3) and torch.allclose(here, smooth(behind)[0], atol=0.01)


def test_a_texel_is_read_back_exactly():
    image = torch.rand(8, 16, 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(latlong.sample(image, directions.latlong_directions(8)), image, atol=1e-5)


# What each program shows in the middle column, as a direction of its own axes, and its own up.
MIDDLE = {"threejs": (1.0, 0.0, 0.0), "nvdiffrec": (0.0, 0.0, -1.0), "mitsuba": (0.0, 0.0, 1.0)}


@pytest.mark.parametrize("axes", latlong.AXES)
@pytest.mark.parametrize("convention", MIDDLE)
def test_the_middle_column_of_each_convention(convention, axes):
    turn = torch.tensor(latlong.AXES[axes])
    assert float(torch.linalg.det(turn)) == pytest.approx(1.0)
    ours = (turn.T @ torch.tensor(MIDDLE[convention])).tolist()
    assert latlong.column_of(convention, ours, axes) == pytest.approx(0.5)
    # From inside, all of them turn clockwise seen from above as the column grows: a quarter on is a quarter less azimuth.
    quarter = (ours[1], -ours[0], ours[2])
    assert latlong.column_of(convention, quarter, axes) == pytest.approx(0.75)


@pytest.mark.parametrize("axes", latlong.AXES)
@pytest.mark.parametrize("source", latlong.CONVENTIONS)
def test_a_bright_texel_keeps_its_direction(source, axes):
    """One bright texel in the file of each convention shines from where that convention says."""
    height, column, row = 16, 5, 4
    image = torch.zeros(height, 2 * height, 1)
    image[row, column] = 1.0
    ours = latlong.convert(image, source, axes=axes)
    found = (ours[..., 0] == 1).nonzero()
    assert len(found) == 1 and int(found[0, 0]) == row
    shone = directions.latlong_directions(height)[found[0, 0], found[0, 1]]
    assert latlong.column_of(source, shone, axes) * 2 * height == pytest.approx(column + 0.5, abs=1e-3)
    assert torch.equal(latlong.convert(ours, "blender", source, axes), image)


def test_blender_is_our_own_convention():
    image = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(latlong.convert(image, "blender"), image)
    for direction, column in (((1, 0, 0), 0.5), ((0, 1, 0), 0.25), ((-1, -1e-9, 0), 1.0), ((0, -1, 0), 0.75)):
        assert latlong.column_of("blender", direction) == pytest.approx(column)


def test_unknown_names_and_shapes_are_refused():
    with pytest.raises(ConfigError, match=r"convention is 'blende', which is unknown. Use 'blender'"):
        latlong.convert(torch.zeros(4, 8, 3), "blende")
    with pytest.raises(ConfigError, match=r"axes is 'usd', which is unknown. Use 'blender' or 'gltf'"):
        latlong.convert(torch.zeros(4, 8, 3), "threejs", axes="usd")
    with pytest.raises(ShapeError, match=r"twice as wide as high"):
        latlong.convert(torch.zeros(4, 9, 3), "blender")
    with pytest.raises(ShapeError, match=r"even number of rows"):
        latlong.convert(torch.zeros(5, 10, 3), "threejs")
