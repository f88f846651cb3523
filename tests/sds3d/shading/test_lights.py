"""Lights of our own: positive, with lamps where they are said to be, opened by name or file."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import AssetError
from sds3d.shading import directions, hdri, lights


@pytest.mark.parametrize("name", lights.LIGHTS)
def test_every_light_is_a_light(name):
    image = lights.named_light(name, 32)
    assert image.shape == (32, 64, 3) and bool(torch.isfinite(image).all()) and float(image.min()) >= 0
    area = directions.latlong_solid_angles(32)[..., None].float()
    mean = float((image * area).sum() / (3 * 64 * area.sum()))
    # None is so dark or bright that a grey object would be lost: within two stops of an even light of 1.
    assert 0.2 < mean < 2.5


@pytest.mark.parametrize(
    ("name", "azimuth_deg", "elevation_deg", "channel"),
    [("sunset", 60, 8, 0), ("noon", -35, 55, 0), ("lamps", -40, 10, 0), ("lamps", 170, 20, 1), ("lamps", 70, 50, 2)],
)
def test_lamps_shine_from_where_they_are(name, azimuth_deg, elevation_deg, channel):
    image, place = lights.named_light(name, 64), directions.latlong_directions(64)
    brightest = place.view(-1, 3)[image[..., channel].flatten().argmax()]
    assert float(brightest @ lights._towards(azimuth_deg, elevation_deg)) > 0.9


def test_the_overcast_sky_is_three_times_as_bright_above():
    above, level = lights.overcast(torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.2]]))
    assert float(above[0] / level[0]) == pytest.approx(3 / 1.4, rel=0.01)


def test_a_light_is_opened_by_name_with_any_ending_or_by_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    studio = lights.open_light("studio", 8).texels()
    assert torch.equal(lights.open_light("studio.exr", 8).texels(), studio)
    assert torch.allclose(lights.open_light("studio", 8, scale=2.0).texels(), 2 * studio)
    hdri.write_hdr("studio.hdr", torch.full((8, 16, 3), 4.0))
    assert float(lights.open_light("studio.hdr", 8).texels().mean()) == pytest.approx(4.0, rel=0.01)


def test_unknown_lights_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssetError, match=r"There is no light 'studo'. Use 'studio'"):
        lights.open_light("studo")
    with pytest.raises(AssetError, match=r"'room.hdr' does not exist"):
        lights.open_light("room.hdr")
