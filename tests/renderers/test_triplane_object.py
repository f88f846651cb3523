"""A finished object of a generator: its mesh, its pictures, its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from renderers.triplane_object import TriplaneRenderer
from sds3d.cameras import turntable
from sds3d.config.generator_views import VolumeConfig
from sds3d.errors import ShapeError
from sds3d.generators.base import Planes
from sds3d.generators.heads import FieldHeads

WHITE = torch.ones(2, 3)


def planes(objects: int = 1) -> Planes:
    draws = torch.Generator().manual_seed(3)
    features = [0.5 * torch.randn(objects, 3, 4, 8, 8, generator=draws) for _ in range(2)]
    return Planes(*features, FieldHeads(4, 8, draws, last_gain=0.1), reach=0.4)


@pytest.mark.parametrize("field", ["points", "grid"])
def test_it_has_a_closed_mesh_with_its_colours(field: str) -> None:
    renderer = TriplaneRenderer(planes(), VolumeConfig(samples=16, field=field))
    mesh = renderer.to_mesh(24, 2000)
    assert abs(abs(mesh.vertices).max() - 0.5) < 0.1 and len(mesh.faces) <= 2000
    expected = renderer.color_at(torch.as_tensor(mesh.vertices).float())
    assert abs(mesh.colors - expected.numpy()).mean() < 0.02


def test_pictures_for_people_show_the_surface_of_the_volume() -> None:
    renderer = TriplaneRenderer(planes(), VolumeConfig(samples=96, sharpness=200, keep_surface=False))
    with torch.no_grad():
        shown, volume = renderer.show(turntable(2, 32), WHITE), renderer(turntable(2, 32), WHITE)
    assert (shown.alpha - volume.alpha).abs().mean() < 0.02
    assert (shown.rgb - volume.rgb).abs().mean() < 0.02
    nothing = TriplaneRenderer(
        Planes(planes().geometry, planes().texture, planes().heads, start_radius=-5.0), renderer.config
    )
    with torch.no_grad():
        assert torch.equal(nothing.show(turntable(2, 8), WHITE).rgb, torch.ones(2, 8, 8, 3))


def test_a_checkpoint_holds_all_of_it(tmp_path: Path) -> None:
    renderer = TriplaneRenderer(planes(), VolumeConfig(samples=16, field="grid"))
    torch.save(renderer.state_dict(), tmp_path / "state.pt")
    again = TriplaneRenderer.from_state(torch.load(tmp_path / "state.pt", weights_only=True))
    seen = [one(turntable(2, 16), WHITE).rgb for one in (renderer, again)]
    assert torch.equal(*seen) and again.sizes == renderer.sizes and again.config == renderer.config


def test_one_object_only_and_the_generator_keeps_its_heads() -> None:
    made = planes()
    renderer = TriplaneRenderer(made, VolumeConfig())
    assert not any(value.requires_grad for value in renderer.parameters())
    assert all(value.requires_grad for value in made.heads.parameters())
    with pytest.raises(ShapeError, match="one object"):
        TriplaneRenderer(planes(2), VolumeConfig())
