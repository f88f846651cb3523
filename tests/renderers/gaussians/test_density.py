"""Density control: what moves where, that pictures and counts survive it, and that it repeats itself."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians import density, initialise
from renderers.gaussians import density_operations as operations
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.parameters import GROUPS
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import turntable
from sds3d.errors import ConfigError

RATES = {"means": 1e-2, "quats": 1e-2, "log_scales": 1e-2, "opacity_logits": 1e-1, "sh0": 1e-2}


def _renderer(count=40, seed=0, **settings):
    cloud = initialise.ball(count, 0.5, torch.Generator().manual_seed(seed), opacity=0.5, colour_std=0.2)
    return GaussianRenderer(cloud, GaussianSettings(density=DensitySettings(**settings)))


def _train(renderer, steps, first=0, optimiser=None):
    """Take optimiser steps towards a red picture, with density control after each; return the optimiser and the
    logs."""
    optimiser = optimiser or torch.optim.Adam(renderer.parameter_groups(RATES))
    cameras, logs = turntable(2, 24), []
    for step in range(first, first + steps):
        render = renderer(cameras, torch.ones(2, 3))
        optimiser.zero_grad()
        ((render.rgb - torch.tensor([1.0, 0, 0])) ** 2).mean().backward()
        optimiser.step()
        logs.append(renderer.after_step(step, optimiser, render))
    return optimiser, logs


@pytest.mark.parametrize("copies", [2, 3, 7, 51])
@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.99])
def test_shared_gaussians_keep_centre_and_line_integral(copies, opacity):
    each, shrink = operations.share(torch.tensor([opacity]).double(), torch.tensor([copies]))
    assert 1 - (1 - each.item()) ** copies == pytest.approx(opacity, rel=1e-6)
    x = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    before = opacity * torch.exp(-0.5 * x**2)
    after = 1 - (1 - each * torch.exp(-0.5 * (x / shrink) ** 2)) ** copies
    assert after.sum().item() == pytest.approx(before.sum().item(), rel=1e-6)


def test_relocation_moves_the_dead_onto_the_living():
    renderer = _renderer()
    with torch.no_grad():
        renderer.opacity_logits[:10] = -9.0
    before = {name: getattr(renderer, name).detach().clone() for name in GROUPS}
    optimiser = torch.optim.Adam(renderer.parameter_groups(RATES))
    moved = density.relocate_dead(renderer, optimiser, 0.005, torch.Generator().manual_seed(1))
    assert moved == 10 and renderer.count == 40
    targets = torch.cdist(renderer.means[:10], before["means"]).argmin(dim=1)
    assert (targets >= 10).all()
    assert torch.equal(renderer.sh0[:10], before["sh0"][targets])
    assert torch.equal(renderer.opacity_logits[:10], renderer.opacity_logits[targets])
    bystanders = torch.tensor([i for i in range(10, 40) if i not in set(targets.tolist())])
    for name in GROUPS:
        assert torch.equal(getattr(renderer, name)[bystanders], before[name][bystanders])


def test_relocation_hardly_changes_the_picture():
    renderer = _renderer(count=12)
    with torch.no_grad():
        renderer.opacity_logits[:4] = -9.0
    cameras, background = turntable(2, 32), torch.ones(2, 3)
    before = renderer(cameras, background).rgb.detach()
    density.relocate_dead(renderer, None, 0.005, torch.Generator().manual_seed(1))
    assert (renderer(cameras, background).rgb - before).abs().mean() < 0.02 * (1 - before).abs().mean()


def test_relocation_empties_the_memory_of_those_involved():
    renderer = _renderer(mode="off")
    optimiser, _ = _train(renderer, 2)
    with torch.no_grad():
        renderer.opacity_logits[:5] = -9.0
    momenta = optimiser.state[renderer.means]["exp_avg"].clone()
    old_means = renderer.means.detach().clone()
    density.relocate_dead(renderer, optimiser, 0.005, torch.Generator().manual_seed(1))
    targets = torch.cdist(renderer.means[:5], old_means).argmin(dim=1)
    now = optimiser.state[renderer.means]["exp_avg"]
    assert (now[:5] == 0).all() and (now[targets] == 0).all()
    others = [i for i in range(5, 40) if i not in set(targets.tolist())]
    assert torch.equal(now[others], momenta[others])


def test_relocation_with_nobody_alive_does_nothing():
    renderer = _renderer()
    with torch.no_grad():
        renderer.opacity_logits.fill_(-9.0)
    assert density.relocate_dead(renderer, None, 0.005, torch.Generator()) == 0


def test_growth_clones_the_small_splits_the_large_and_prunes():
    renderer = _renderer(count=6, mode="default")
    settings = DensitySettings(mode="default", scene_scale=1.0, grow_scale=0.05, prune_scale=0.5, reset_every=0)
    with torch.no_grad():
        renderer.log_scales.fill_(math.log(0.01))
        renderer.log_scales[1] = math.log(0.2)  # large: split
        renderer.log_scales[4] = math.log(0.9)  # huge: pruned
        renderer.opacity_logits[5] = -9.0  # faint: pruned
    renderer.statistics.gradient_sum = torch.tensor([4e-4, 4e-4, 1e-4, 4e-4, 0.0, 0.0])
    renderer.statistics.seen = torch.tensor([1.0, 1, 1, 4, 1, 0])
    before = {name: getattr(renderer, name).detach().clone() for name in GROUPS}
    done = density.grow_and_prune(renderer, None, settings, 700, torch.Generator().manual_seed(0))
    assert done == {"cloned": 1.0, "split": 1.0, "pruned": 2.0}
    # kept: 0, 2, 3; then the clone of 0; then the two halves of 1
    source = [0, 2, 3, 0, 1, 1]
    assert torch.equal(renderer.sh0, before["sh0"][source])
    assert torch.equal(renderer.means[:4], before["means"][source[:4]])
    assert torch.allclose(renderer.log_scales[4:], before["log_scales"][[1, 1]] - math.log(1.6))
    offsets = (renderer.means[4:] - before["means"][1]).norm(dim=1)
    assert (offsets > 0).all() and (offsets < 5 * 0.2).all()
    assert renderer.statistics.seen.shape == (6,) and (renderer.statistics.gradient_sum == 0).all()


def test_halves_of_a_split_scatter_like_the_gaussian():
    renderer = _renderer(count=2)
    with torch.no_grad():
        renderer.quats[0] = torch.tensor([math.sqrt(0.5), 0, 0, math.sqrt(0.5)])  # x of the Gaussian is y of the world
        renderer.log_scales[0] = torch.tensor([0.3, 0.1, 0.02]).log()
        points = operations.draw_inside(
            renderer, torch.zeros(4000, dtype=torch.int64), torch.Generator().manual_seed(0)
        )
    deviations = (points - renderer.means[0].detach()).std(dim=0)
    assert torch.allclose(deviations, torch.tensor([0.1, 0.3, 0.02]), rtol=0.06)


@pytest.mark.parametrize("logit", [-200.0, 20.0, 200.0])
def test_opacities_that_round_to_0_or_1_stay_finite_in_every_move(logit):
    """A logit of infinity would not be exported, and has no gradient to come back by."""
    for move in ("split", "add", "relocate", "duplicate"):
        renderer, draws = _renderer(20), torch.Generator().manual_seed(0)
        with torch.no_grad():
            renderer.opacity_logits.fill_(logit)
        mask = torch.arange(20) < 5
        if move == "split":
            operations.split(renderer, None, mask, draws, revised_opacity=True)
        elif move == "add":
            operations.add(renderer, None, 9, 0.005, draws)
        elif move == "relocate":
            operations.relocate(renderer, None, mask, 0.005, draws)
        else:
            operations.duplicate(renderer, None, mask)
        assert all(getattr(renderer, name).isfinite().all() for name in GROUPS), move


def test_growth_respects_the_budget_and_prefers_large_gradients():
    renderer = _renderer(count=5)
    renderer.statistics.gradient_sum = torch.tensor([1.0, 5.0, 2.0, 4.0, 3.0])
    renderer.statistics.seen = torch.ones(5)
    before = renderer.sh0.detach().clone()
    settings = DensitySettings(mode="default", max_count=7, grow_scale=10.0, prune_scale=100.0)
    density.grow_and_prune(renderer, None, settings, 700, torch.Generator())
    assert renderer.count == 7 and torch.equal(renderer.sh0[5:], before[[1, 3]])
    renderer.statistics.gradient_sum = torch.ones(7)
    renderer.statistics.seen = torch.ones(7)
    assert density.grow_and_prune(renderer, None, settings, 700, torch.Generator())["cloned"] == 0.0


def test_one_gaussian_always_stays():
    renderer = _renderer(count=5)
    with torch.no_grad():
        renderer.opacity_logits.copy_(torch.tensor([-9.0, -8.0, -7.0, -9.0, -9.0]))
    density.grow_and_prune(renderer, None, DensitySettings(mode="default"), 700, torch.Generator())
    assert renderer.count == 1 and renderer.opacity_logits.item() == -7.0


@pytest.mark.parametrize("mode", ["relocate", "default", "mcmc"])
def test_training_with_density_control_stays_finite_and_repeats(mode):
    finals = []
    for _ in range(2):
        renderer = _renderer(mode=mode, start=0, every=3, grow_gradient=1e-6, max_count=60, noise_rate=1e3)
        with torch.no_grad():
            renderer.opacity_logits[:8] = -6.0
        _, logs = _train(renderer, 10)
        assert sum("gaussians" in log for log in logs) == 3
        assert {"relocate": 40, "mcmc": 46}.get(mode, renderer.count) == renderer.count and 20 <= renderer.count <= 60
        finals.append(torch.cat([getattr(renderer, name).detach().flatten() for name in GROUPS]))
        assert torch.isfinite(finals[-1]).all()
    assert torch.equal(*finals)


def test_resume_in_the_middle_is_bit_equal():
    settings = {"mode": "default", "start": 0, "every": 3, "grow_gradient": 1e-6, "max_count": 60}
    straight = _renderer(**settings)
    optimiser, _ = _train(straight, 4)
    saved = {"model": straight.state_dict(), "optimiser": optimiser.state_dict()}
    saved = torch.utils._pytree.tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, saved)
    assert straight.count != 40
    _train(straight, 4, first=4, optimiser=optimiser)
    resumed = _renderer(seed=9, **settings).resize_(len(saved["model"]["means"]))
    resumed.load_state_dict(saved["model"])
    other = torch.optim.Adam(resumed.parameter_groups(RATES))
    other.load_state_dict(saved["optimiser"])
    _train(resumed, 4, first=4, optimiser=other)
    for name, value in straight.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_clock():
    renderer = _renderer(mode="relocate", start=3, stop=9, every=3)
    _, logs = _train(renderer, 12)
    assert [i for i, log in enumerate(logs) if log] == [6]
    assert _train(_renderer(mode="off", start=0, every=1), 3)[1] == [{}, {}, {}]


def test_messages():
    with pytest.raises(ConfigError, match=r"density.mode is 'relocat', which is unknown. Use 'relocate'"):
        DensitySettings(mode="relocat")
    with pytest.raises(ConfigError, match=r"density.min_opacity is 0.0, but must lie between 0 and 0.5"):
        DensitySettings(min_opacity=0.0)
    with pytest.raises(ConfigError, match=r"density.every is 0, but must be above 0"):
        DensitySettings(every=0)
