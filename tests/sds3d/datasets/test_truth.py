"""Rendered sets: closed forms where there are some, shadows where they belong, equal settings give equal files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.datasets.hull import hull_points
from sds3d.datasets.rendered import RenderedSet, load, save, spread
from sds3d.datasets.scenes import SCENES, Scene, make_scene
from sds3d.datasets.truth import render
from sds3d.errors import AssetError
from sds3d.shading.environment import EnvironmentLight
from sds3d.toybox.shape import Shape


def ball(base: float = 0.5, roof: float | None = None) -> Scene:
    """Return a smooth ball of radius 0.9, or a smaller one under a roof of another base colour; roughness 0.5, no metal."""
    shape = Shape(main=np.full(3, 0.7), stripe=None)
    shape.ellipsoid((0.5, 0.5, 0.5), part="ball", segments=24, rings=14)
    if roof is not None:
        shape.box((1.6, 1.6, 0.05), part="roof", at=(0, 0, 0.65))
    mesh = shape.mesh()
    count = len(mesh.corners)
    colour = np.where(mesh.parts == mesh.part_names.index("ball"), base, roof or 0.0)[:, None].repeat(3, axis=1)
    return Scene(
        name="ball", corners=mesh.corners, normals=mesh.normals, base_colour=colour.astype(np.float32),
        roughness=np.full(count, 0.5, np.float32), metallic=np.zeros(count, np.float32),
    )  # fmt: skip


def even(radiance: float = 0.5) -> dict[str, object]:
    return {"even": EnvironmentLight.constant(radiance, 4).prefiltered()}


def test_a_diffuse_ball_under_even_light_has_one_colour() -> None:
    """With mode "simple", base colour c and no metal: c L + L (0.04 A + B), and the shadow test finds nothing to hide."""
    from sds3d.shading.energy import split_sum

    views = render(ball(), spread(2, 16), even(), "even", samples=256, mode="simple", view_transform="none")
    solid = views.alpha[..., 0] > 0.99
    towards = torch.nn.functional.normalize(
        views.cameras.cam_to_world[:, None, None, :3, 3] - 0.9 * views.normals, dim=-1
    )
    facing = (views.normals * towards).sum(dim=-1)
    a, b = split_sum(facing[solid][:, None].clamp(0.05, 1.0), torch.full((int(solid.sum()), 1), 0.5))
    expected = 0.5 * (0.5 + 0.04 * a + b)
    error = (views.images[solid].mean(dim=-1) - expected[:, 0]).abs()
    assert float(error.mean()) < 0.01
    torch.testing.assert_close(views.albedo[solid], torch.full((int(solid.sum()), 3), 0.5))
    assert float((views.normals.norm(dim=-1)[solid] - 1).abs().max()) < 1e-5
    same = render(ball(), spread(2, 16), even(), "even", samples=256, mode="simple", view_transform="none")
    assert torch.equal(same.images, views.images)


def test_a_roof_takes_light_away_and_a_bright_one_gives_some_back() -> None:
    cameras = spread(2, 32, low_deg=-20.0, high_deg=0.0)
    settings = {"samples": 48, "view_transform": "none"}
    dark, bright = (render(ball(0.9, roof), cameras, even(), "even", **settings) for roof in (0.02, 0.9))
    free = render(ball(0.9, 0.9), cameras, even(), "even", **settings, is_shadowed=False)
    top = (free.normals[..., 2] > 0.3) & (free.alpha[..., 0] > 0.99)
    assert int(top.sum()) > 5
    means = [float(views.images[top].mean()) for views in (dark, bright, free)]
    assert means[0] + 0.01 < means[1] < means[2] - 0.01


@pytest.mark.parametrize("name", SCENES)
def test_scenes_are_sound(name: str) -> None:
    scene = make_scene(name)
    assert scene.name == name and np.abs(scene.corners).max() <= 1.0
    assert 0.0199 <= scene.base_colour.min() <= scene.base_colour.max() <= 0.9
    assert scene.roughness.min() >= 0.04 and set(np.unique(scene.metallic)) <= {0.0, 1.0}
    assert np.array_equal(make_scene(name).corners, scene.corners)


def test_unknown_scene() -> None:
    with pytest.raises(AssetError, match="Did you mean 'duck'"):
        make_scene("dukc")


def test_files_come_back(tmp_path: Path) -> None:
    views = render(ball(), spread(2, 12), even(), "even", samples=8)
    save(tmp_path / "set.pt", views)
    back = load(tmp_path / "set.pt")
    torch.testing.assert_close(back.images, views.images, atol=1e-3, rtol=0)
    torch.testing.assert_close(back.normals, views.normals, atol=2e-3, rtol=0)
    assert back.names == views.names and torch.equal(back.cameras.cam_to_world, views.cameras.cam_to_world)
    (tmp_path / "set.pt").write_bytes(b"no")
    with pytest.raises(AssetError, match="is no set of pictures"):
        load(tmp_path / "set.pt")
    assert RenderedSet(scene="duck").key != RenderedSet(scene="duck", seed=1).key
    assert RenderedSet(scene="duck").key == RenderedSet(scene="duck").key


def test_hull_of_a_ball_is_the_ball() -> None:
    views = render(ball(), spread(16, 32, -70.0, 70.0), even(), "even", samples=4)
    points, normals, colours = hull_points(views, 500, torch.Generator().manual_seed(0), 48)
    radius = points.norm(dim=1)
    assert 0.86 < float(radius.mean()) < 0.97 and float(radius.std()) < 0.04
    cosine = (normals * torch.nn.functional.normalize(points, dim=1)).sum(dim=1)
    assert float(cosine.mean()) > 0.95
    assert float((colours - colours.mean()).abs().max()) < 0.2
    empty = replace(views, alpha=torch.zeros_like(views.alpha))
    with pytest.raises(AssetError, match="have nothing in common"):
        hull_points(empty, 10, torch.Generator(), 16)
