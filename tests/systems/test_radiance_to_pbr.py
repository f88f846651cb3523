"""The machine of stages on a tiny ball: what moves, what does not, what happens once, and what a resumed run repeats."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from renderers.gaussians.materials import CLOUD_GROUPS
from sds3d.config.materials import LearningRateWarning, MaterialsConfig
from sds3d.config.materials_stages import STAGES
from sds3d.datasets.rendered import spread
from sds3d.datasets.view_set import ViewSet
from systems.radiance_to_pbr import RadianceToPbr
from systems.radiance_to_pbr_source import initial
from systems.radiance_to_pbr_stages import FROZEN, plan, rates

SIZE = 16


def config(**changes: Any) -> MaterialsConfig:
    """Return a recipe of three steps a stage."""
    base: dict[str, Any] = {
        "name": "tiny",
        "title": "tiny",
        "cloud": {"count": 60, "hull_resolution": 16, "sh_degree": 1, "backend": "reference", "relocate_every": 2},
        "shading": {"light_resolution": 4, "visibility_cells": 4},
        "stages": {name: {"steps": 3} for name in STAGES},
    }
    return MaterialsConfig.model_validate({**base, **changes})


@pytest.fixture(scope="module")
def ball() -> ViewSet:
    """Views of a red ball of radius 0.5 on nothing, brighter above."""
    cameras = spread(5, SIZE)
    place = (torch.stack(torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij"), -1) + 0.5) / SIZE - 0.5
    radius = 0.5 / 2.5 / (2 * 0.41421356)
    alpha = (place.norm(dim=-1) < radius).float()[None, ..., None].expand(5, -1, -1, -1)
    shade = (0.6 - 0.8 * place[..., :1]).clamp(0, 1)
    images = (shade * torch.tensor([0.9, 0.3, 0.2])).expand(5, -1, -1, -1)
    return ViewSet(name="ball", images=images, alpha=alpha.clone(), cameras=cameras, names=tuple("abcde"))


def make(views: ViewSet, **changes: Any) -> RadianceToPbr:
    given = config(**changes)
    return RadianceToPbr(given, initial(given, views))


def values(system: RadianceToPbr) -> dict[str, torch.Tensor]:
    found = {name: getattr(system.cloud, name).detach().clone() for name in CLOUD_GROUPS}
    return found | {"light": system.light.values.detach().clone()}


@pytest.mark.parametrize("method", ["progressive", "physics", "radiance"])
def test_frozen_parameters_do_not_change_a_bit(ball: ViewSet, method: str) -> None:
    """M23: in each stage exactly what the table names stays, and all else moves."""
    system = make(ball, method=method, cloud={**config().cloud.model_dump(), "relocate_every": 0})
    baked = 0
    while not system.is_finished:
        stage, has_baked = system.stage, system.visibility.is_baked
        if system.step == stage.start and system.step:
            system.enter(stage)  # what enters is not what trains; entering twice changes nothing
        before = values(system)
        rate = rates(system.config, stage, system.step)
        system.advance(ball)
        after = values(system)
        baked += system.visibility.is_baked and not has_baked
        for name in before:
            assert (rate[name] == 0.0) == torch.equal(before[name], after[name]), (stage.name, name)
            assert name not in FROZEN[method][stage.name] or rate[name] == 0.0
    assert baked == (method != "radiance") and system.step == 12


def test_specular_stage_sees_metal_only(ball: ViewSet) -> None:
    system = make(ball)
    stages = {stage.name: stage for stage in system.stages}
    shown = {name: system.shown(ball.cameras[:1], stage=stage) for name, stage in stages.items()}
    assert shown["raw"].physical is None and torch.equal(shown["raw"].mixed, shown["raw"].raw)
    inside = ball.alpha[:1, ..., 0] > 0.5
    for name, expected in (("specular", 1.0), ("diffuse", 0.5)):
        metallic = shown[name].gbuffer.metallic[inside]
        torch.testing.assert_close(metallic, torch.full_like(metallic, expected), atol=2e-2, rtol=0)
    progress = shown["diffuse"].progress[inside]
    torch.testing.assert_close(progress, torch.full_like(progress, 0.01), atol=1e-3, rtol=0)


def test_metalness_is_released_at_its_start_or_at_the_progress(ball: ViewSet) -> None:
    for from_progress, expected in ((False, 0.3), (True, 0.7)):
        system = make(ball, metallic_start=0.3, metallic_from_progress=from_progress)
        system.cloud.fill_("progress", 0.7)
        system.enter(next(stage for stage in system.stages if stage.name == "diffuse"))
        torch.testing.assert_close(system.cloud.metallic.sigmoid(), torch.full((60, 1), expected))


def test_resumed_run_repeats_the_uninterrupted_one(ball: ViewSet) -> None:
    """M23: stopped in the middle of stage diffuse."""
    whole, first = make(ball), make(ball)
    while first.step < 7:
        first.advance(ball)
    state = first.state()
    second = make(ball)
    second.load_state(state)
    assert second.visibility.is_baked and second.stage.name == "diffuse"
    for system in (whole, second):
        while not system.is_finished:
            system.advance(ball)
    for name, value in values(whole).items():
        assert torch.equal(value, values(second)[name]), name


def test_a_step_never_waits_for_values(ball: ViewSet) -> None:
    """On the meta device any hidden transfer, .item() or branch on a value fails."""
    system = make(ball)
    system.step, views = 7, ball.to("meta")
    system.to("meta").visibility.is_baked = True
    loss, terms = system.losses(views, torch.tensor([0, 1]), torch.Generator())
    loss.backward()
    assert loss.is_meta and system.cloud.progress.grad is not None
    assert set(terms) == {"photometric", "mask", "flat", "normal", "white", "progress", "smooth", "binary"}


def test_geometry_is_held_in_the_first_third_of_stage_specular() -> None:
    given = config(stages={"specular": {"steps": 30}})
    stage = next(stage for stage in plan(given) if stage.name == "specular")
    early, late = rates(given, stage, stage.start + 9), rates(given, stage, stage.start + 10)
    held = {"means", "log_scales", "opacity_logits"}
    assert all(early[name] == 0.0 < late[name] for name in held)
    assert early["quats"] > 0 and early["roughness"] > 0 and early["metallic"] == late["metallic"] == 0.0


def test_stages_without_steps_are_left_out() -> None:
    given = config(
        stages={"raw": {"steps": 0}, "specular": {"steps": 2}, "diffuse": {"steps": 0}, "joint": {"steps": 1}}
    )
    assert [(stage.name, stage.start, stage.stop) for stage in plan(given)] == [("specular", 0, 2), ("joint", 2, 3)]


def test_baked_colours_that_learn_too_fast_are_warned_of() -> None:
    """M22, first half: the rule of section 4.4 of the method page."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config()
        config(learning_rates={"sh0": 0.02}, method="physics")
    for name, rate in (("sh0", 0.0031), ("sh_rest", 0.0007)):
        with pytest.warns(LearningRateWarning, match=f"'{name}' learns at .* in stage specular"):
            config(learning_rates={name: rate})
    with pytest.warns(LearningRateWarning, match="in stage joint"):
        config(stages={"joint": {"steps": 1, "rate_scale": {"sh0": 3.0}}})
