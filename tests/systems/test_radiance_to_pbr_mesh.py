"""The mesh variant: the same stages on a given surface, whose material, progress and baked colours are fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from renderers.gbuffer import from_mesh
from renderers.material_surface import WIDTHS
from renderers.surface_conversion import sphere_mesh
from renderers.surface_texture import Places
from sds3d.config.materials import LearningRateWarning, MaterialsConfig
from sds3d.config.materials_stages import STAGES
from sds3d.datasets.rendered import spread
from sds3d.datasets.view_set import ViewSet
from sds3d.errors import AssetError
from sds3d.export.mesh import write_mesh
from sds3d.meshing.mesh import Mesh
from sds3d.shading.colour import to_display
from sds3d.shading.deferred import ShadeSettings, shade
from sds3d.shading.lights import named_light, open_light
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_mesh import blank_surface, open_surface, scene_mesh, surface_of, with_textures
from systems.radiance_to_pbr_stages import FROZEN, rates

RADIUS = 0.6


def config(init: str = "hull", steps: int = 3, **changes: Any) -> MaterialsConfig:
    base: dict[str, Any] = {
        "name": "tiny",
        "title": "tiny",
        "cloud": {"count": 200, "hull_resolution": 24, "backend": "reference"},
        "surface": {"init": init, "levels": 4, "finest_resolution": 32, "log2_table_size": 12, "hidden": 16},
        "shading": {"light_resolution": 4, "visibility_cells": 4},
        "stages": {name: {"steps": steps} for name in STAGES},
    }
    return MaterialsConfig.model_validate({**base, **changes})


def truth_at(places: Places) -> dict[str, torch.Tensor]:
    """Red and glossy metal above, green and rough plastic below."""
    above = (places.position[:, 2:] > 0).float()
    base = above * torch.tensor([0.8, 0.3, 0.2]) + (1 - above) * torch.tensor([0.2, 0.6, 0.3])
    return {"base_colour": base, "roughness": 0.3 * above + 0.8 * (1 - above), "metallic": above}


def views_of(mesh: Mesh, count: int, size: int) -> ViewSet:
    """Pictures of the ball under lamps, by the split sum, so that physics explains all of it."""
    cameras = spread(count, size)
    vertices, faces = torch.from_numpy(mesh.vertices), torch.from_numpy(mesh.faces)
    light = open_light("lamps", 8).prefiltered()
    with torch.no_grad():
        seen = from_mesh(vertices, faces, truth_at, cameras, normals=torch.from_numpy(mesh.normals))
        images = to_display(shade(seen, light, ShadeSettings()).rgb).clamp(0, 1)
    return ViewSet(
        name="ball", images=images, alpha=seen.alpha, cameras=cameras, names=tuple(map(str, range(count))),
        normals=seen.normal, albedo=seen.base_colour.clamp(0, 1), roughness=seen.roughness, metallic=seen.metallic,
        relit={"studio": images}, lights={"lamps": named_light("lamps", 16), "studio": named_light("studio", 16)},
        light="lamps",
    )  # fmt: skip


@pytest.fixture(scope="module")
def ball() -> Mesh:
    return sphere_mesh(RADIUS, 10)


@pytest.fixture(scope="module")
def views(ball: Mesh) -> ViewSet:
    return views_of(ball, 4, 16)


def values(system: RadianceToPbr) -> dict[str, list[torch.Tensor]]:
    groups = system.optimiser.param_groups
    return {group["name"]: [value.detach().clone() for value in group["params"]] for group in groups}


@pytest.mark.parametrize("method", ["progressive", "physics", "radiance"])
def test_the_same_table_of_stages_freezes_its_fields(ball: Mesh, views: ViewSet, method: str) -> None:
    """M23 on the mesh: what is frozen stays to the bit, all else moves; the surface never does."""
    given = config(steps=2, method=method)
    system = RadianceToPbr(given, surface_of(given, ball))
    vertices, baked = system.cloud.vertices.clone(), 0
    while not system.is_finished:
        stage, has_baked = system.stage, system.visibility.is_baked
        if system.step == stage.start and system.step:
            system.enter(stage)
        before, rate = values(system), rates(given, stage, system.step)
        system.advance(views)
        baked += system.visibility.is_baked and not has_baked
        for name, after in values(system).items():
            is_same = all(torch.equal(*pair) for pair in zip(before[name], after, strict=True))
            assert is_same == (rate[name] == 0.0), (stage.name, name)
            assert (rate[name] == 0.0) == (name in FROZEN[method][stage.name])
    assert torch.equal(vertices, system.cloud.vertices) and baked <= (method != "radiance")


def test_what_a_stage_shows(ball: Mesh, views: ViewSet) -> None:
    given = config(metallic_from_progress=True)
    system = RadianceToPbr(given, surface_of(given, ball))
    stages = {stage.name: stage for stage in system.stages}
    inside = views.alpha[:1, ..., 0] > 0.9
    with torch.no_grad():
        shown = {name: system.shown(views.cameras[:1], stage=stage) for name, stage in stages.items()}
    assert shown["raw"].physical is None and torch.equal(shown["raw"].mixed, shown["raw"].raw)
    assert float(shown["specular"].gbuffer.metallic[inside].min()) > 0.99
    progress = shown["diffuse"].progress[inside]
    torch.testing.assert_close(progress, torch.full_like(progress, 0.01), atol=1e-3, rtol=0)
    for name, value in (("progress", 0.7), ("base_colour", 0.2)):
        system.cloud.fill_(name, value)
    system.enter(stages["diffuse"])  # metalness begins at the progress that was reached
    found = system.cloud.material_at(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)))
    assert {name: part.shape[1] for name, part in found.items()} == WIDTHS
    torch.testing.assert_close(found["metallic"], torch.full((20, 1), 0.7))
    torch.testing.assert_close(found["base_colour"], torch.full((20, 3), 0.2))


def test_base_colours_can_begin_at_the_baked_ones(ball: Mesh, views: ViewSet) -> None:
    """Where progress is low they become the baked colours, where it is high they stay; on a mesh and on Gaussians."""
    from renderers.gaussians.sh import sh0_from_rgb
    from sds3d.shading.colour import linear_from_srgb
    from systems.radiance_to_pbr_release import release
    from systems.radiance_to_pbr_source import initial

    given = config(base_colour_from_baked=True)
    surface, red = surface_of(given, ball), torch.tensor([0.9, 0.3, 0.2])
    with torch.no_grad():
        last = surface.raw_network.linears[-1]
        last.weight.zero_()
        last.bias.copy_(torch.logit(red))
        at = 0.6 * torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    for progress, expected in ((0.01, linear_from_srgb(red)), (0.99, torch.full((3,), 0.5))):
        surface.fill_("base_colour", 0.5)
        surface.fill_("progress", progress)
        release(surface, given)
        with torch.no_grad():
            found = surface.material_at(at)
        torch.testing.assert_close(found["base_colour"].mean(dim=0), expected, atol=0.05, rtol=0)
        torch.testing.assert_close(found["progress"].mean(), torch.tensor(progress), atol=0.05, rtol=0)
    plain = config("none", base_colour_from_baked=True)
    cloud = RadianceToPbr(plain, initial(plain, views)).cloud
    with torch.no_grad():
        cloud.sh0.copy_(sh0_from_rgb(red.expand(cloud.count, 3)))
    for progress, expected in ((0.01, linear_from_srgb(red)), (0.99, torch.full((3,), 0.5))):
        cloud.fill_("base_colour", 0.5)
        cloud.fill_("progress", progress)
        release(cloud, plain)
        torch.testing.assert_close(cloud.base_colour.sigmoid().mean(dim=0), expected, atol=0.02, rtol=0)


def test_baked_colours_depend_on_the_side(ball: Mesh) -> None:
    given = config()
    surface = surface_of(given, ball)
    with torch.no_grad():
        for parameter in surface.raw_network.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        points, normals = surface.scatter(50, torch.Generator().manual_seed(0))
        assert float((points.norm(dim=1) - RADIUS).abs().max()) < 0.06
        assert float((normals * torch.nn.functional.normalize(points, dim=1)).sum(dim=1).min()) > 0.9
        front, back = surface.raw_at(points, normals), surface.raw_at(points, -normals)
    assert float((front - back).abs().mean()) > 0.01


@pytest.mark.parametrize(("name", "share"), [("roughness", 1 / 6), ("base_colour", 0.25 * 3 / 6)])
def test_variation_is_that_of_the_material(ball: Mesh, name: str, share: float) -> None:
    """0 for a constant material; for a step across the equator, the share of pairs that straddle it; of base colours, times
    the progress (0.25), as pictures count them."""
    given = config()
    surface = surface_of(given, ball)
    for kind in WIDTHS:
        surface.fill_(kind, 0.4)
    with torch.no_grad():
        assert float(surface.variation(torch.Generator().manual_seed(0))) < 1e-6
    seen: list[torch.Tensor] = []

    def stepped(points: torch.Tensor) -> dict[str, torch.Tensor]:
        seen.append(points)
        above = (points[:, 2:] > 0).float()
        values = {kind: torch.zeros(len(points), width) for kind, width in WIDTHS.items()}
        values["progress"] += 0.25
        return {**values, name: above.expand(-1, WIDTHS[name])}

    surface.material_at = stepped  # type: ignore[method-assign]
    found = float(surface.variation(torch.Generator().manual_seed(0)))
    here, there = seen[0].chunk(2)
    straddling = float(((here[:, 2] > 0) != (there[:, 2] > 0)).float().mean())
    assert straddling > 0 and found == pytest.approx(share * straddling, abs=1e-6)
    assert float((here - there).norm(dim=1).mean()) == pytest.approx(given.surface.jitter * 1.6, rel=0.1)


def test_resumed_mesh_runs_repeat_the_uninterrupted_one(ball: Mesh, views: ViewSet) -> None:
    given = config()
    whole, first = (RadianceToPbr(given, surface_of(given, ball)) for _ in range(2))
    while first.step < 7:
        first.advance(views)
    second = RadianceToPbr(given, blank_surface(given))  # one triangle: the surface comes from the checkpoint
    second.load_state(first.state())
    assert len(second.cloud.faces) == len(ball.faces) and second.visibility.is_baked
    for system in (whole, second):
        while not system.is_finished:
            system.advance(views)
    for name, expected in values(whole).items():
        assert all(torch.equal(*pair) for pair in zip(expected, values(second)[name], strict=True)), name


def test_surfaces_that_can_be_named(ball: Mesh, views: ViewSet, tmp_path: Path) -> None:
    hull = open_surface(config("hull"), views, None)
    assert abs(float(hull.vertices.norm(dim=1).median()) - RADIUS) < 0.1
    outwards = (hull.normals * hull.vertices).sum(dim=1)
    assert float((outwards > 0).float().mean()) > 0.95
    file = write_mesh(tmp_path / "ball.glb", ball)
    assert len(open_surface(config(str(file)), views, None).faces) == len(ball.faces)
    with pytest.raises(AssetError, match="has no mesh of its own: pictures and splats have none"):
        open_surface(config("own"), views, None)
    away = Mesh(ball.vertices + np.float32(5.0), ball.faces, ball.colors)
    with pytest.raises(AssetError, match="covers 0% of the object in the first pictures"):
        open_surface(config(str(write_mesh(tmp_path / "away.glb", away))), views, None)
    scene = scene_mesh("robot")
    assert len(scene.vertices) < 3 * len(scene.faces) and np.abs(np.linalg.norm(scene.normals, axis=1) - 1).max() < 1e-3


def test_fast_baked_colours_are_warned_of_here_too() -> None:
    with pytest.warns(LearningRateWarning, match="'raw_field' learns at 0.002 in stage specular"):
        config(learning_rates={"raw_field": 0.002})


def test_textures_say_what_the_field_says(ball: Mesh, tmp_path: Path) -> None:
    import trimesh

    from systems.radiance_to_pbr_export import export_all

    given = config(texture_size=64)
    system = RadianceToPbr(given, surface_of(given, ball))
    for name, value in (("base_colour", 0.25), ("roughness", 0.35), ("metallic", 0.8)):
        system.cloud.fill_(name, value)
    material = with_textures(system, 64).material
    assert material is not None
    np.testing.assert_allclose(material.metallic_roughness.mean(axis=(0, 1)), [0.8, 0.35], atol=1e-3)
    files = export_all(tmp_path, system)
    assert [file.name for file in files] == ["mesh.glb", "light.hdr"]
    (part,) = trimesh.load(files[0]).geometry.values()
    np.testing.assert_allclose(np.asarray(part.visual.material.baseColorTexture)[..., 0].mean() / 255, 0.537, atol=5e-3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_materials_and_progress_are_found_on_a_ball_of_two_materials(ball: Mesh) -> None:
    """Physics explains all of it, so progress rises everywhere; roughness and metalness tell the halves apart."""
    training = views_of(ball, 8, 24)
    given = config(
        stages={"raw": {"steps": 60}, "specular": {"steps": 60}, "diffuse": {"steps": 150}, "joint": {"steps": 0}},
        shading={"light_resolution": 8, "visibility": False},
    )
    system = RadianceToPbr(given, surface_of(given, ball))
    errors = []
    while not system.is_finished:
        errors.append(float(system.advance(training)["photometric"]))
    assert errors[-1] < 0.35 * errors[0]
    with torch.no_grad():
        ends = torch.tensor([[0.3, 0.0, 0.52], [-0.3, 0.1, 0.51], [0.3, 0.0, -0.52], [-0.3, 0.1, -0.51]])
        found = {name: value.view(2, 2, -1).mean(dim=1) for name, value in system.cloud.material_at(ends).items()}
        assert float(system.cloud.mean_progress) > 0.6
    above, below = found["metallic"][:, 0]
    assert float(above) > float(below) + 0.15, found
    assert float(found["base_colour"][0, 0]) > float(found["base_colour"][0, 1])  # red above, green below
    assert float(found["base_colour"][1, 1]) > float(found["base_colour"][1, 0])
