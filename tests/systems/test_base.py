"""The one training step: what it draws, what it adds up, what stops it, that it runs without values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from renderers.gaussians import regularisers
from sds3d.errors import DivergenceError
from systems.randomness import generator_for

Make = Callable[..., Any]


def test_a_step_repeats_and_steps_differ(make_system: Make) -> None:
    system = make_system()
    first, again, other = (system.losses(step, "cpu") for step in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[2].rgb, again[2].rgb)
    assert not torch.equal(first[2].rgb, other[2].rgb)


def test_the_loss_is_guidance_plus_weighted_terms(make_system: Make) -> None:
    """Recomputed by hand: weights are schedules of the step; a term without weight does not enter."""
    ramp = "regularisers.binary={clock: step, points: [[0, 0], [4, 2.0]]}"
    system = make_system("regularisers.opacity=0", "regularisers.scale=3", "renderer.largest_scale=0.01", ramp)
    loss, logs, render = system.losses(1, "cpu")
    binary = 0.5 * regularisers.binary(render.alpha)
    scale = 3.0 * regularisers.scale(system.renderer.scales, 0.01, 5.0)
    assert binary > 0 and scale > 0
    outside = regularisers.outside(system.renderer.means)
    torch.testing.assert_close(loss, logs["guidance"] + binary + scale + outside)
    torch.testing.assert_close(logs["binary"], binary.detach())
    assert "opacity" not in logs and "variation" not in logs
    assert not any(value.requires_grad for value in logs.values())


def test_the_gradient_is_that_of_the_same_parts(make_system: Make) -> None:
    """Guidance alone and terms alone give gradients that add up to the step's."""
    gradients = []
    for weight, method in ((0.0, "1"), (1.5, "1"), (1.5, "0")):
        keys = [f"regularisers.{name}={weight if name == 'binary' else 0}" for name in ("binary", "opacity", "scale")]
        system = make_system(*keys, "regularisers.outside=0")
        loss, _, render = system.losses(2, "cpu")
        wanted = loss if method == "1" else weight * regularisers.binary(render.alpha)
        gradients.append(torch.autograd.grad(wanted, system.renderer.opacity_logits)[0])
    guidance, both, term = gradients
    assert guidance.abs().max() > 0 and term.abs().max() > 0
    torch.testing.assert_close(both, guidance + term, rtol=1e-4, atol=1e-7)


def test_views_follow_the_recipe(make_system: Make) -> None:
    system = make_system("cameras.elevation_deg=[5, 6]", "cameras.distance=[3, 3.5]", "background.random_fraction=0.6")
    draws = [system.draw_views(generator_for(0, "step", step), 8) for step in range(300)]
    elevation = torch.cat([cameras.elevation_deg for cameras, _ in draws])
    distance = torch.cat([cameras.distance for cameras, _ in draws])
    assert 5 <= elevation.min() < elevation.max() <= 6 and 3 <= distance.min() < distance.max() <= 3.5
    is_grey = torch.tensor([bool((background == 0.5).all()) for _, background in draws])
    # 300 coins with chance 0.4: four standard errors are 0.113.
    assert abs(float(is_grey.float().mean()) - 0.4) < 0.113
    colours = torch.stack([background for _, background in draws])[~is_grey]
    assert colours.min() >= 0 and colours.max() <= 1 and colours.var(dim=0).min() > 0.04  # uniform: 1/12


def test_views_come_in_the_groups_of_the_prior_that_looks_at_most(make_system: Make) -> None:
    system = make_system("cameras.views=8", "background.random_fraction=1")
    alone, _ = system.draw_views(generator_for(0, "step", 0), 8)
    system.guides[0].prior.group_views = 4
    cameras, background = system.draw_views(generator_for(0, "step", 0), 8)
    turns = cameras.azimuth_deg.view(2, 4).diff(dim=1).remainder(360)
    torch.testing.assert_close(turns, torch.full((2, 3), 90.0), atol=1e-3, rtol=0)
    assert cameras.elevation_deg.unique().numel() == 2 and alone.elevation_deg.unique().numel() == 8
    behind = background.view(2, 4, 3)
    assert (behind == behind[:, :1]).all() and (behind[0, 0] != behind[1, 0]).all()


def test_learning_rates_follow_their_schedules(make_system: Make) -> None:
    system = make_system("optimiser.learning_rates.means={clock: fraction, points: [[0, 0.4], [1, 0.0]]}")
    optimiser = system.configure_optimizers()
    assert {group["name"]: group["lr"] for group in optimiser.param_groups} == system.learning_rates(0)
    system.steps_done = 6  # of 8
    system.on_before_optimizer_step(optimiser)
    rates = {group["name"]: group["lr"] for group in optimiser.param_groups}
    assert rates["means"] == pytest.approx(0.1) and rates["sh0"] == 0.02


def test_the_betas_and_eps_of_the_recipe_are_used(make_system: Make) -> None:
    optimiser = make_system("optimiser.betas=[0.5, 0.6]", "optimiser.eps=1e-7").configure_optimizers()
    assert all(group["betas"] == (0.5, 0.6) and group["eps"] == 1e-7 for group in optimiser.param_groups)


def test_a_term_that_is_not_finite_is_named(make_system: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    system = make_system()
    monkeypatch.setattr(regularisers, "outside", lambda means: means.sum() / 0.0)
    system.checkpoint, system.steps_done = Path("run/last.ckpt"), 5
    with pytest.raises(
        DivergenceError, match=r"'outside' is not finite at step 5.*checkpoint is run/last.ckpt"
    ) as info:
        system.training_step(None, 0)
    assert (info.value.term, info.value.step) == ("outside", 5)


def test_a_gradient_that_is_not_finite_is_named(make_system: Make) -> None:
    system = make_system()
    optimiser = system.configure_optimizers()
    system.renderer.quats.grad = torch.full_like(system.renderer.quats, float("nan"))
    with pytest.raises(
        DivergenceError, match=r"'gradient of quats' is not finite at step 0.*No checkpoint was written"
    ):
        system.on_before_optimizer_step(optimiser)


def test_a_bad_state_is_never_saved(make_system: Make) -> None:
    system = make_system()
    optimiser = system.configure_optimizers()
    with torch.no_grad():
        system.renderer.log_scales[3, 1] = float("inf")
    with pytest.raises(DivergenceError, match="'parameter log_scales' is not finite"):
        system.state(optimiser)


def test_a_step_runs_without_values(make_system: Make) -> None:
    """On the meta device any hidden transfer, .item() or branch on a value fails."""
    system = make_system("renderer.backend=reference", "regularisers.opacity=1", device="meta")
    loss, logs, _ = system.losses(2, "meta")
    loss.backward()
    assert loss.is_meta and all(value.is_meta for value in logs.values())
    assert all(parameter.grad.is_meta for parameter in system.renderer.parameters())
    system.on_before_optimizer_step(system.configure_optimizers())


def test_the_prior_is_no_part_of_the_system(make_system: Make) -> None:
    """Else it would be trained, and written into every checkpoint."""
    names = {name.split(".")[0] for name in make_system().state_dict()}
    assert names == {"renderer"}
