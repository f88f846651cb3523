"""Density control against the installed gsplat: the same step with the same draws gives the same rows."""

from __future__ import annotations

import math

import pytest
import torch

from renderers.gaussians import density, initialise
from renderers.gaussians import density_operations as operations
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.cameras import turntable

gsplat = pytest.importorskip("gsplat")
from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci  # noqa: E402
from gsplat.strategy import ops  # noqa: E402

THEIRS = {
    "means": "means",
    "quats": "quats",
    "log_scales": "scales",
    "opacity_logits": "opacities",
    "sh0": "sh0",
}
RATES = {"means": 1e-3, "quats": 1e-2, "log_scales": 1e-2, "opacity_logits": 1e-1, "sh0": 1e-2}
SEED = 5


class Pair:
    """One cloud after two recorded optimiser steps, as our renderer and as gsplat's dictionaries."""

    def __init__(self, **settings) -> None:
        cloud = initialise.ball(40, 0.5, torch.Generator().manual_seed(0), opacity=0.5, colour_std=0.2)
        self.settings = DensitySettings(**settings)
        self.renderer = GaussianRenderer(cloud, GaussianSettings(density=self.settings))
        with torch.no_grad():
            draws = torch.Generator().manual_seed(1)
            self.renderer.log_scales += 1.5 * torch.randn(40, 3, generator=draws)
            self.renderer.opacity_logits += 3.0 * torch.randn(40, generator=draws)
            self.renderer.quats *= 2.0  # not of unit length
        self.optimiser = torch.optim.Adam(self.renderer.parameter_groups(RATES))
        self.meta = {}
        for _ in range(2):
            render = self.renderer(turntable(2, 24), torch.ones(2, 3))
            self.optimiser.zero_grad()
            ((render.rgb - torch.tensor([1.0, 0, 0])) ** 2).mean().backward()
            self.optimiser.step()
            self.meta = render.extras["meta"]
        self.params = torch.nn.ParameterDict(
            {theirs: getattr(self.renderer, ours).detach().clone() for ours, theirs in THEIRS.items()}
        )
        self.optimisers = {}
        for ours, theirs in THEIRS.items():
            self.optimisers[theirs] = torch.optim.Adam([self.params[theirs]], lr=RATES[ours])
            state = self.optimiser.state[getattr(self.renderer, ours)]
            self.optimisers[theirs].state[self.params[theirs]] = {k: v.clone() for k, v in state.items()}

    def their_count(self) -> int:
        return len(self.params["means"])

    def assert_equal(self) -> None:
        """Parameters, moments and the optimisers' step counts agree row by row."""
        for ours, theirs in THEIRS.items():
            value, expected = getattr(self.renderer, ours), self.params[theirs]
            torch.testing.assert_close(value.detach(), expected.detach(), rtol=2e-5, atol=2e-6, msg=ours)
            state, wanted = self.optimiser.state[value], self.optimisers[theirs].state[expected]
            assert state.keys() == wanted.keys() == {"step", "exp_avg", "exp_avg_sq"}
            for key in state:
                torch.testing.assert_close(state[key], wanted[key], rtol=0, atol=0, msg=f"{key} of {ours}")


@pytest.fixture(autouse=True)
def without_cuda(monkeypatch):
    """gsplat's two CUDA functions in plain torch: its own reference of one, the formula of the kernel of the other."""

    def compute_relocation(opacities, scales, ratios, binoms):
        ratios.clamp_(min=1, max=len(binoms))
        new = 1.0 - (1.0 - opacities.double()) ** (1.0 / ratios)
        sums = torch.zeros_like(new)
        for row, count in enumerate(ratios.tolist()):
            for i in range(1, count + 1):
                for k in range(i):
                    sums[row] += math.comb(i - 1, k) * (-1.0) ** k / math.sqrt(k + 1) * new[row] ** (k + 1)
        return new.float(), ((opacities.double() / sums)[:, None] * scales).float()

    monkeypatch.setattr(ops, "compute_relocation", compute_relocation)
    monkeypatch.setattr(ops, "quat_scale_to_covar_preci", _quat_scale_to_covar_preci)


def mask_of(*rows: int) -> torch.Tensor:
    mask = torch.zeros(40, dtype=torch.bool)
    mask[list(rows)] = True
    return mask


def draws() -> torch.Generator:
    """Return our generator; gsplat's global one gets the same seed."""
    torch.manual_seed(SEED)
    return torch.Generator().manual_seed(SEED)


def test_duplicate():
    pair = Pair()
    operations.duplicate(pair.renderer, pair.optimiser, mask_of(1, 7, 39))
    ops.duplicate(pair.params, pair.optimisers, {}, mask_of(1, 7, 39))
    assert pair.renderer.count == 43
    pair.assert_equal()


@pytest.mark.parametrize("revised_opacity", [False, True])
def test_split(revised_opacity):
    pair = Pair()
    # At least 16 numbers are drawn, for torch draws fewer in another way.
    operations.split(pair.renderer, pair.optimiser, mask_of(0, 3, 8, 21), draws(), revised_opacity)
    ops.split(pair.params, pair.optimisers, {}, mask_of(0, 3, 8, 21), revised_opacity)
    assert pair.renderer.count == 44
    pair.assert_equal()
    if revised_opacity:  # two halves in a row are as opaque as the one was
        half = pair.renderer.opacities[36:40]
        assert torch.allclose(1 - (1 - half) ** 2, Pair().renderer.opacities[[0, 3, 8, 21]], atol=1e-5)


def test_remove():
    pair = Pair()
    assert operations.remove(pair.renderer, pair.optimiser, mask_of(0, 5, 6)) == 3
    ops.remove(pair.params, pair.optimisers, {}, mask_of(0, 5, 6))
    pair.assert_equal()


def test_reset_opacity():
    pair = Pair()
    operations.reset_opacity(pair.renderer, pair.optimiser, 0.01)
    ops.reset_opa(pair.params, pair.optimisers, {}, 0.01)
    pair.assert_equal()
    assert pair.renderer.opacities.max().item() == pytest.approx(0.01, rel=1e-5)
    assert (pair.optimiser.state[pair.renderer.opacity_logits]["exp_avg"] == 0).all()


def binomials() -> torch.Tensor:
    return gsplat.MCMCStrategy().initialize_state()["binoms"]


def test_relocate():
    pair = Pair()
    dead = pair.renderer.opacities.detach() <= 0.1
    assert 2 <= dead.sum() <= 20
    moved = operations.relocate(pair.renderer, pair.optimiser, dead, 0.1, draws())
    ops.relocate(pair.params, pair.optimisers, {}, dead, binomials(), 0.1)
    assert moved == int(dead.sum())
    pair.assert_equal()


def test_add():
    pair = Pair()
    operations.add(pair.renderer, pair.optimiser, 25, 0.005, draws())
    ops.sample_add(pair.params, pair.optimisers, {}, 25, binomials(), 0.005)
    assert pair.renderer.count == 65
    pair.assert_equal()


def test_add_noise():
    pair = Pair()
    before = pair.renderer.means.detach().clone()
    operations.add_noise(pair.renderer, 50.0, draws())
    ops.inject_noise_to_position(pair.params, pair.optimisers, {}, 50.0)
    pair.assert_equal()
    shift, opacity = (pair.renderer.means - before).norm(dim=1), pair.renderer.opacities
    assert (shift[opacity > 0.1] < 1e-3).all() and (shift[opacity < 0.01] > 0).all()


def recorded(strategy: gsplat.DefaultStrategy, pair: Pair) -> dict:
    """Let gsplat's strategy and our statistics read the same recorded gradients; return gsplat's state."""
    state = strategy.initialize_state(scene_scale=pair.settings.scene_scale)
    strategy._update_state(pair.params, state, pair.meta)
    pair.renderer.statistics.update(pair.meta, absolute=False)
    return state


@pytest.mark.parametrize("step", [600, 3300])
@pytest.mark.parametrize("radius_stop", [0, 10_000])
def test_one_step_of_the_default_strategy(step, radius_stop):
    """Thresholds such that every rule has work: clone, split, prune the faint and (after the first reset) the huge."""
    ours = {"scene_scale": 1.0, "grow_gradient": 3e-4, "grow_scale": 0.4, "prune_scale": 2.0, "min_opacity": 0.1}
    wide = {"grow_radius": 1.0, "prune_radius": 2.0}
    pair = Pair(mode="default", radius_stop=radius_stop, **ours, **wide)
    strategy = gsplat.DefaultStrategy(
        grow_grad2d=3e-4,
        grow_scale3d=0.4,
        prune_scale3d=2.0,
        prune_opa=0.1,
        refine_scale2d_stop_iter=radius_stop,
        grow_scale2d=1.0,
        prune_scale2d=2.0,
    )
    pair.meta["radii"] = pair.meta["radii"][:1]  # one camera: theirs takes the radius of any one
    pair.meta["means2d"] = type("Recorded", (), {"grad": pair.meta["means2d"].grad[:1]})()
    state = recorded(strategy, pair)
    generator = draws()
    cloned, split = strategy._grow_gs(pair.params, pair.optimisers, state, step)
    pruned = strategy._prune_gs(pair.params, pair.optimisers, state, step)
    done = density.grow_and_prune(pair.renderer, pair.optimiser, pair.settings, step, generator)
    assert done == {"cloned": cloned, "split": split, "pruned": pruned}
    assert cloned > 0 and split > 2 and pruned > 0
    pair.assert_equal()


def test_the_rounds_are_those_of_the_default_strategy():
    """Which steps refine: gsplat's own condition, evaluated over a run."""
    settings = DensitySettings(mode="default", start=500, stop=9000, every=100, reset_every=3000, pause_after_reset=250)
    wanted = [s for s in range(10_000) if s < 9000 and s > 500 and s % 100 == 0 and s % 3000 >= 250]
    assert [s for s in range(10_000) if settings.refines(s)] == wanted
    theirs = gsplat.DefaultStrategy()
    ours = DensitySettings(mode="default", scene_scale=1.0)
    pairs = {
        "min_opacity": "prune_opa",
        "grow_gradient": "grow_grad2d",
        "grow_scale": "grow_scale3d",
        "prune_scale": "prune_scale3d",
        "grow_radius": "grow_scale2d",
        "prune_radius": "prune_scale2d",
        "radius_stop": "refine_scale2d_stop_iter",
        "start": "refine_start_iter",
        "stop": "refine_stop_iter",
        "every": "refine_every",
        "reset_every": "reset_every",
        "pause_after_reset": "pause_refine_after_reset",
        "absolute_gradient": "absgrad",
        "revised_opacity": "revised_opacity",
    }
    for mine, name in pairs.items():
        assert getattr(ours, mine) == getattr(theirs, name), mine
    assert ours.noise_rate == gsplat.MCMCStrategy().noise_lr


def test_one_step_of_the_mcmc_strategy():
    pair = Pair(mode="mcmc", min_opacity=0.1, max_count=41)
    strategy = gsplat.MCMCStrategy(min_opacity=0.1, cap_max=41)
    generator = draws()
    done = density.control_density(pair.renderer, pair.optimiser, pair.settings, 600, pair.meta, generator)
    strategy.step_post_backward(pair.params, pair.optimisers, strategy.initialize_state(), 600, {}, lr=RATES["means"])
    assert done["added"] == 1 and done["relocated"] > 0 and pair.their_count() == pair.renderer.count == 41
    pair.assert_equal()


def test_mcmc_shakes_at_every_step_and_grows_only_in_its_window():
    pair = Pair(mode="mcmc", start=10, stop=20, every=5, max_count=100)
    sizes = []
    for step in (9, 10, 15, 16, 20, 25):
        before = pair.renderer.means.detach().clone()
        density.control_density(pair.renderer, pair.optimiser, pair.settings, step, {}, draws())
        rows = min(len(before), pair.renderer.count)
        assert not torch.equal(before[:rows], pair.renderer.means[:rows])
        sizes.append(pair.renderer.count)
    assert sizes == [40, 40, 42, 42, 42, 42]


def test_the_opacities_are_reset_when_it_is_time():
    pair = Pair(mode="default", start=0, every=1000, reset_every=4, min_opacity=0.02)
    seen = {}
    for step in (0, 3, 4):
        seen[step] = density.control_density(pair.renderer, pair.optimiser, pair.settings, step, pair.meta, draws())
    assert seen == {0: {}, 3: {}, 4: {"gaussians": 40.0, "reset": 1.0}}
    assert pair.renderer.opacities.max().item() == pytest.approx(0.04, rel=1e-5)


def test_gsplat_itself_never_resets():
    """Why the reset is compared as an operation and not as a step: `step % n == 0 & step > 0` is never true."""
    pair = Pair()
    strategy = gsplat.DefaultStrategy(reset_every=4, refine_start_iter=10**9)
    state = strategy.initialize_state()
    for step in range(9):
        strategy.step_post_backward(pair.params, pair.optimisers, state, step, pair.meta)
    assert torch.sigmoid(pair.params["opacities"]).max() > 0.5


def test_the_widest_view_of_a_gaussian_counts():
    pair = Pair(mode="default", radius_stop=100)
    radii = pair.meta["radii"]
    radii[0, 3], radii[1, 3], radii[0, 4] = torch.tensor([5, 7]), torch.tensor([12, 2]), torch.tensor([0, 9])
    pair.renderer.statistics.update(pair.meta, absolute=False)
    assert pair.renderer.statistics.radius[3].item() == pytest.approx(12 / 24)
    hidden = (radii[:, 4] > 0).all(dim=-1)
    largest = max([int(radii[c, 4].max()) for c in range(2) if hidden[c]], default=0)
    assert pair.renderer.statistics.radius[4].item() == pytest.approx(largest / 24)
    assert "radius" not in dict(Pair(mode="default").renderer.statistics.named_buffers())
