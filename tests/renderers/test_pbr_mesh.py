"""A mesh with a material: lights of a step, parameters, terms, checkpoints; M28, what changing lights are good for."""

from __future__ import annotations

import pytest
import torch

from renderers.pbr_mesh import PbrMeshRenderer, exposed, material_texture
from renderers.surface_conversion import sphere_mesh
from sds3d.cameras import turntable
from sds3d.config.pbr import PbrMeshConfig
from sds3d.errors import ConfigError, ShapeError
from sds3d.shading.lights import open_light

SMALL = {"texture": {"kind": "grid", "resolution": 4}, "light_resolution": 8, "occlusion": False}


def renderer(cells: int = 12, seed: int = 3, **keys) -> PbrMeshRenderer:
    config = PbrMeshConfig(**{**SMALL, **keys})
    mesh = sphere_mesh(0.7, cells)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    return PbrMeshRenderer(
        vertices, faces, material_texture(config, torch.Generator().manual_seed(0)), config, seed=seed
    )


def rates() -> dict[str, float]:
    return {name: 0.05 for name in PbrMeshConfig.PARAMETERS}


def test_a_new_material_is_grey_half_rough_and_hardly_metal():
    with torch.no_grad():
        found = renderer().material_at(torch.zeros(1, 3))
        pinned = renderer(metallic=(0.0, 0.0)).material_at(torch.zeros(1, 3))
    assert torch.allclose(found["base_colour"], torch.full((1, 3), 0.5), atol=1e-3)
    assert float(found["roughness"]) == pytest.approx(0.525, abs=1e-3) and 0.05 < float(found["metallic"]) < 0.15
    assert float(pinned["metallic"]) == 0.0


@pytest.mark.parametrize("kind", ["grid", "field"])
def test_gradients_reach_every_parameter(kind):
    asset = renderer(
        texture={"kind": kind, "resolution": 4, "levels": 2, "log2_table_size": 8, "finest_resolution": 32}
    )
    render = asset(turntable(2, 16, 10.0, 2.5, 45.0), torch.zeros(2, 3))
    assert render.rgb.shape == (2, 16, 16, 3) and render.alpha.shape == (2, 16, 16, 1)
    terms = dict(asset.regularisers(render))
    assert set(terms) == set(PbrMeshConfig.REGULARISERS)
    (render.rgb.square().mean() + sum(terms.values())).backward()
    for group in asset.parameter_groups(rates()):
        assert all(float(parameter.grad.abs().max()) > 0 for parameter in group["params"])


def test_views_have_lights_of_their_own_that_follow_from_the_step():
    """The same camera twice: two lights, two pictures; the same step again: the same; the next step: others."""
    asset, cameras = renderer(), turntable(1, 16, 10.0, 2.5, 45.0)[torch.zeros(2, dtype=torch.long)]
    first = asset(cameras, torch.zeros(2, 3)).rgb.detach()
    assert float((first[0] - first[1]).abs().max()) > 0.02
    assert torch.equal(asset(cameras, torch.zeros(2, 3)).rgb, first)
    asset.after_step(0, None, None)  # type: ignore[arg-type]
    assert float((asset(cameras, torch.zeros(2, 3)).rgb - first).abs().max()) > 0.02


def test_people_see_it_in_the_first_light():
    asset, cameras = renderer(lights=("sunset", "overcast")), turntable(1, 16, 10.0, 2.5, 45.0)
    with torch.no_grad():
        shown = asset(cameras, torch.zeros(1, 3)).rgb
        asset.after_step(0, None, None)  # type: ignore[arg-type]
        assert torch.equal(asset(cameras, torch.zeros(1, 3)).rgb, shown)
        alone = renderer(lights=("sunset",))(cameras, torch.zeros(1, 3)).rgb
    assert torch.equal(shown, alone)


def test_a_fixed_light_stays():
    asset = renderer(lights=("studio",), turn_lights=False)
    cameras = turntable(1, 16, 10.0, 2.5, 45.0)
    first = asset(cameras, torch.zeros(1, 3)).rgb
    asset.after_step(0, None, None)  # type: ignore[arg-type]
    assert torch.equal(asset(cameras, torch.zeros(1, 3)).rgb, first)


@pytest.mark.parametrize("name", ["studio", "noon"])
def test_exposure_makes_lights_equally_bright(name):
    ways = torch.nn.functional.normalize(torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    light = exposed(open_light(name, 8), 0.8).prefiltered()
    assert float(light.diffuse(ways).mean()) == pytest.approx(0.8, rel=0.03)
    assert exposed(open_light(name, 8), None).cubemap().equal(open_light(name, 8).cubemap())


def test_conditions_come_with_the_picture():
    asset = renderer(conditions=("depth", "normal", "light"))
    render = asset(turntable(2, 16, 10.0, 2.5, 45.0), torch.zeros(2, 3))
    assert render.extras["control"].shape == (2, 22, 16, 16)
    assert "control" not in renderer()(turntable(1, 16, 10.0, 2.5, 45.0), torch.zeros(1, 3)).extras


def test_smoothness_is_zero_for_an_even_material_and_not_for_noise():
    asset = renderer()
    cameras = turntable(1, 16, 10.0, 2.5, 45.0)
    with torch.no_grad():
        for table in asset.texture.parameters():
            table.zero_()
    even = dict(asset.regularisers(asset(cameras, torch.zeros(1, 3))))
    assert all(float(term) < 1e-5 for term in even.values())
    with torch.no_grad():
        for table in asset.texture.parameters():
            table.normal_(generator=torch.Generator().manual_seed(0)).mul_(3.0)
    rough = dict(asset.regularisers(asset(cameras, torch.zeros(1, 3))))
    assert all(float(term) > 0.01 for term in rough.values())


def test_a_checkpoint_brings_mesh_material_and_lights():
    old = renderer(cells=16)
    old.after_step(0, None, None)  # type: ignore[arg-type]
    new = renderer(cells=8, seed=9)
    new.load_state_dict(old.state_dict())
    cameras = turntable(1, 16, 10.0, 2.5, 45.0)
    assert torch.equal(new(cameras, torch.zeros(1, 3)).rgb, old(cameras, torch.zeros(1, 3)).rgb)


def test_wrong_names_and_shapes_are_refused():
    asset = renderer()
    with pytest.raises(ConfigError, match=r"There is no parameter group 'textur'. Use 'texture'"):
        asset.parameter_groups({"textur": 0.1})
    with pytest.raises(ConfigError, match=r"Learning rates are missing for texture"):
        asset.parameter_groups({"network": 0.1})
    with pytest.raises(ShapeError, match=r"background"):
        asset(turntable(2, 16, 10.0, 2.5, 45.0), torch.zeros(1, 3))


def recovered(lights: tuple[str, ...], turns: bool, wrong: str | None, steps: int = 60) -> float:
    """Return the mean error of base colour after fitting pictures of a known ball.

    The stub of a judge wants the picture that the true material has in the light it is told. `wrong`: the light the true
    pictures are really in, while the renderer believes in its own: the judge is told nothing, as plain SDS tells nothing.
    """
    keys = {"lights": lights, "turn_lights": turns, "metallic": (0.0, 0.0), "exposure": 0.7, "mode": "simple"}
    asset, truth = renderer(**keys), renderer(**keys)
    with torch.no_grad():
        for table in truth.texture.parameters():
            table.normal_(generator=torch.Generator().manual_seed(5)).mul_(0.8)
    other = None if wrong is None else exposed(open_light(wrong, 8), 0.7).prefiltered()
    optimiser = torch.optim.Adam(asset.texture.parameters(), lr=0.1, betas=(0.9, 0.99), eps=1e-15)
    for step in range(steps):
        cameras = turntable(4, 16, 30.0 * (-1) ** step, 2.5, 45.0)
        seen, lit = asset.gbuffer(cameras), asset.draw_lights(4)
        with torch.no_grad():
            known = truth.shaded(truth.gbuffer(cameras), lit if other is None else [other] * 4)
        loss = ((asset.shaded(seen, lit) - known) * seen.alpha.detach()).square().mean()
        optimiser.param_groups[0]["lr"] = 0.1 * (1.0 - step / steps) + 0.005
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        asset.after_step(step, optimiser, None)  # type: ignore[arg-type]
    at = asset.vertices[asset.vertices[:, 2].abs() < 0.5]
    with torch.no_grad():
        return float((asset.material_at(at)["base_colour"] - truth.material_at(at)["base_colour"]).abs().mean())


@pytest.mark.slow
def test_known_random_lights_recover_the_base_colour_and_a_wrong_light_does_not():
    """M28: the point of DreamMat."""
    assert recovered(("studio", "sunset", "overcast"), True, None) < 0.02
    assert recovered(("sunset",), False, "studio") > 0.1
