"""Trained score networks, several assets, several priors, editing: what the step adds, what a checkpoint holds (T27)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from sds3d.config import dump_recipe
from systems.build import build_system
from systems.checkpoint import read_checkpoint, write_checkpoint
from systems.text_to_3d import export, generate

Make = Callable[..., Any]
VSD = ("guidance.method=vsd", "guidance.score.learning_rate=0.01", "renderer.density.mode=off")


def advance(system: Any, optimiser: Any, steps: int) -> list[torch.Tensor]:
    """Train by hand, as Lightning calls the hooks; return the gradient of `means` of each step."""
    gradients = []
    for _ in range(steps):
        optimiser.zero_grad()
        system.training_step(None, 0).backward()
        system.on_before_optimizer_step(optimiser)
        gradients.append(system.asset_of(system.steps_done).means.grad.clone())
        optimiser.step()
        system.scores.step(system.steps_done, system.total_steps)
        system.steps_done += 1
    return gradients


@pytest.mark.usefixtures("use_exact_prior")
@pytest.mark.parametrize("particles", [1, 4])
def test_resuming_gives_the_same_bits(make_recipe: Make, tmp_path: Path, particles: int) -> None:
    """T27: assets, score network, both optimisers and schedules come back; the next gradients are equal."""
    recipe = make_recipe(*VSD, f"training.particles={particles}")
    whole = build_system(recipe)
    optimiser = whole.configure_optimizers()
    advance(whole, optimiser, 5)
    write_checkpoint(tmp_path / "last.ckpt", whole.state(optimiser), dump_recipe(recipe))
    after = advance(whole, optimiser, 3)

    state = read_checkpoint(tmp_path / "last.ckpt")
    assert len(state["others"]) == particles - 1
    assert set(state["score"]["networks"][0]) == {"mean", "log_spread", "camera"}
    resumed = build_system(recipe, state)
    again = advance(resumed, resumed.configure_optimizers(), 3)
    assert all(torch.equal(one, other) for one, other in zip(after, again, strict=True))
    for one, other in zip(whole.guidance.score.parameters(), resumed.guidance.score.parameters(), strict=True):
        assert torch.equal(one, other)

    forgetful = build_system(recipe, {**state, "score": None})
    different = advance(forgetful, forgetful.configure_optimizers(), 1)
    assert not torch.equal(different[0], after[0]), "without the network's state the next gradient is another"


@pytest.mark.usefixtures("use_exact_prior")
def test_particles_differ_take_turns_and_share_one_network(make_recipe: Make) -> None:
    system = build_system(make_recipe(*VSD, "training.particles=4"))
    assert len(system.assets) == 4 and len(system.scores.guides) == 1
    starts = [asset.means.detach().clone() for asset in system.assets]
    assert all(not torch.equal(starts[i], starts[j]) for i in range(4) for j in range(i))
    optimiser = system.configure_optimizers()
    advance(system, optimiser, 2)
    moved = [not torch.equal(asset.means, start) for asset, start in zip(system.assets, starts, strict=True)]
    assert moved == [True, True, False, False]
    network = system.guidance.score
    before = network.mean.detach().clone()
    advance(system, optimiser, 1)
    assert not torch.equal(network.mean, before), "the third asset trains the same network"


@pytest.mark.usefixtures("use_exact_prior")
def test_the_first_particle_starts_as_a_single_asset_does(make_recipe: Make) -> None:
    one, four = (build_system(make_recipe(*VSD, f"training.particles={count}")) for count in (1, 4))
    assert torch.equal(one.renderer.means, four.renderer.means)


@pytest.mark.usefixtures("use_exact_prior")
def test_each_particle_is_written(make_recipe: Make, make_run: Make, quiet: Console) -> None:
    recipe = make_recipe(*VSD, "training.particles=2", "training.steps=4")
    run = make_run(recipe)
    outcome = generate(recipe, run, console=quiet)
    names = [str(file.relative_to(run.export)) for file in outcome.files]
    assert names == ["splats.ply", "particle-2/splats.ply"] and all(file.is_file() for file in outcome.files)
    assert outcome.files[0].read_bytes() != outcome.files[1].read_bytes()
    before = [file.read_bytes() for file in outcome.files]
    assert [file.read_bytes() for file in export(run, ["ply"])] == before


@pytest.mark.usefixtures("use_exact_prior")
def test_a_broken_network_gradient_stops_the_run(make_recipe: Make) -> None:
    from sds3d.errors import DivergenceError

    system = build_system(make_recipe(*VSD))
    optimiser = system.configure_optimizers()
    system.training_step(None, 0).backward()
    system.guidance.score.mean.grad.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="gradient of the score network's mean' is not finite"):
        system.on_before_optimizer_step(optimiser)
    with torch.no_grad():
        system.guidance.score.log_spread.fill_(float("inf"))
    with pytest.raises(DivergenceError, match="'parameter log_spread' is not finite"):
        system.state(optimiser)


@pytest.mark.usefixtures("use_exact_prior")
def test_the_score_loss_is_logged_and_adds_no_parameters_to_the_system(make_recipe: Make) -> None:
    system = build_system(make_recipe(*VSD))
    _, logs, _ = system.losses(0, "cpu")
    assert logs["score_loss"] > 0 and not logs["score_loss"].requires_grad
    assert {name.split(".")[0] for name in system.state_dict()} == {"renderer"}


@pytest.mark.usefixtures("use_exact_prior")
def test_several_priors_add_up(make_recipe: Make) -> None:
    """The gradient of a recipe with a second prior is that of the first plus the weighted one of the second."""
    extra = "also=[{prior: {path: toybox}, guidance: {method: csd, guidance_scale: 3}, weight: %s}]"
    gradients = []
    for overrides in ((), (extra % 0.5,), (extra % 1.0,)):
        system = build_system(make_recipe("guidance.method=sds", *overrides))
        loss, logs, _ = system.losses(1, "cpu")
        gradients.append(torch.autograd.grad(loss, system.renderer.sh0)[0])
        assert ("guidance2" in logs) == bool(overrides) and ("guidance2_t_mean" in logs) == bool(overrides)
    alone, half, full = gradients
    assert (full - alone).abs().max() > 0
    torch.testing.assert_close(half - alone, 0.5 * (full - alone), rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("use_exact_prior")
def test_editing_starts_from_the_asset_as_it_was(make_recipe: Make) -> None:
    """With equal texts an edit of the untouched asset wants nothing; after a change it does."""
    recipe = make_recipe("guidance.method=pds", "prompt.source=a red mug")
    system = build_system(recipe)
    loss, _, _ = system.losses(0, "cpu")
    gradient = torch.autograd.grad(loss, system.renderer.sh0)[0]
    assert gradient.abs().max() < 1e-3
    with torch.no_grad():
        system.renderer.sh0.add_(1.0)
    loss, _, _ = system.losses(0, "cpu")
    assert torch.autograd.grad(loss, system.renderer.sh0)[0].abs().max() > 1e-3
