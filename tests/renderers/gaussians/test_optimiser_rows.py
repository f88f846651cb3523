"""Row surgery: an optimiser that had only ever known the surviving rows must go on in the same way."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from renderers.gaussians.optimiser_rows import replace_rows


def _module(values):
    module = nn.Module()
    module.points = nn.Parameter(values.clone())
    return module


def _steps(module, optimiser, targets, count):
    for _ in range(count):
        optimiser.zero_grad()
        ((module.points - targets) ** 2).sum().backward()
        optimiser.step()


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_pruned_optimiser_continues_like_one_that_never_had_the_rows(kind):
    generator = torch.Generator().manual_seed(0)
    values, targets = torch.randn(6, 3, generator=generator), torch.randn(6, 3, generator=generator)
    options = {"lr": 0.05, "momentum": 0.9} if kind is torch.optim.SGD else {"lr": 0.05}
    keep = torch.tensor([4, 0, 3])
    full, small = _module(values), _module(values[keep])
    optimisers = [kind([{"params": [m.points], "name": "points"}], **options) for m in (full, small)]
    _steps(full, optimisers[0], targets, 5)
    _steps(small, optimisers[1], targets[keep], 5)
    old = full.points
    replace_rows(full, ["points"], optimisers[0], keep, torch.zeros(3, dtype=torch.bool))
    assert full.points is not old and optimisers[0].param_groups[0]["params"] == [full.points]
    assert old not in optimisers[0].state and optimisers[0].param_groups[0]["name"] == "points"
    _steps(full, optimisers[0], targets[keep], 5)
    _steps(small, optimisers[1], targets[keep], 5)
    assert torch.equal(full.points, small.points)


def test_fresh_rows_start_without_memory():
    module = _module(torch.zeros(3, 2))
    optimiser = torch.optim.Adam([module.points], lr=0.1)
    _steps(module, optimiser, torch.ones(3, 2), 3)
    source, fresh = torch.tensor([0, 1, 2, 1]), torch.tensor([False, False, False, True])
    content = torch.cat([module.points.detach(), torch.full((1, 2), 7.0)])
    before = optimiser.state[module.points]["exp_avg"].clone()
    replace_rows(module, ["points"], optimiser, source, fresh, {"points": content})
    state = optimiser.state[module.points]
    assert torch.equal(module.points.detach(), content) and module.points.grad is None
    assert torch.equal(state["exp_avg"][:3], before) and (state["exp_avg"][3] == 0).all()
    assert (state["exp_avg_sq"][3] == 0).all() and state["step"].item() == 3


def test_same_count_keeps_the_parameter_itself():
    module = _module(torch.arange(4.0)[:, None])
    optimiser = torch.optim.Adam([module.points], lr=0.1)
    _steps(module, optimiser, torch.zeros(4, 1), 2)
    old, values = module.points, module.points.detach().clone()
    replace_rows(module, ["points"], optimiser, torch.tensor([0, 0, 2, 3]), torch.tensor([True, True, False, False]))
    assert module.points is old and torch.equal(module.points.detach(), values[[0, 0, 2, 3]])
    assert (optimiser.state[old]["exp_avg"][:2] == 0).all() and (optimiser.state[old]["exp_avg"][2:] != 0).all()


def test_without_optimiser_and_before_its_first_step():
    module = _module(torch.arange(4.0)[:, None])
    replace_rows(module, ["points"], None, torch.tensor([1]), torch.tensor([False]))
    assert module.points.item() == 1.0
    optimiser = torch.optim.Adam([module.points], lr=0.1)
    replace_rows(module, ["points"], optimiser, torch.tensor([0, 0]), torch.tensor([False, True]))
    assert optimiser.param_groups[0]["params"][0] is module.points and len(optimiser.state) == 0
