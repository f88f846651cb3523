"""Grids of toybox objects and the flow that makes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from renderers.triplane_grid import GridField
from sds3d.config.generator import FlowRecipe
from sds3d.errors import ShapeError
from sds3d.generators import flow
from sds3d.generators.flow_training import flow_losses, rate_at
from sds3d.generators.shape_flow import ShapeFlow, flow_matching_loss, told
from sds3d.generators.shape_grids import FARTHEST, SHELL, field_values, shape_grid
from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLORS


def network(seed: int = 0) -> ShapeFlow:
    return ShapeFlow(4, 16, 1, torch.Generator().manual_seed(seed))


def test_a_grid_holds_distance_and_colour_of_its_object_and_repeats() -> None:
    what = Description(noun="apple", color="red")
    grid = shape_grid(what, np.random.default_rng(0), 10)
    assert torch.equal(grid, shape_grid(what, np.random.default_rng(0), 10)) and grid.shape == (4, 10, 10, 10)
    assert grid.abs().max() <= 1.0 and (grid[0] < 0).any() and float(grid[0, 0, 0, 0]) == 1.0  # a corner is far away
    near = grid[0] < 0
    colour = 0.5 * grid[1:, near].mean(dim=1) + 0.5
    assert (colour - torch.tensor(COLORS["red"])).abs().max() < 0.2


def test_a_field_reads_back_what_the_grid_says() -> None:
    grid = shape_grid(Description(noun="apple", color="blue"), np.random.default_rng(1), 8)
    field = GridField(field_values(grid[None]), start_radius=0.0)
    line = (2.0 * torch.arange(8) + 1.0) / 8.0 - 1.0
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    distance, colour = field.both(torch.stack([x, y, z], dim=-1).view(1, -1, 3))
    torch.testing.assert_close(distance.view(8, 8, 8), FARTHEST * grid[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(colour[0].T.reshape(3, 8, 8, 8), 0.5 * grid[1:] + 0.5, atol=1e-5, rtol=0)
    assert float(distance.min()) >= -SHELL - 1e-5


def test_the_flow_takes_patches_apart_and_puts_them_together_again() -> None:
    made = network()
    x = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # entry and exit the identity, blocks nothing: x comes back
        made.entry = torch.nn.Linear(32, 32, bias=False)
        made.entry.weight.copy_(torch.eye(32))
        made.place = torch.nn.Parameter(torch.zeros(8, 32))
        made.blocks = torch.nn.ModuleList()
        made.exit = torch.nn.Linear(32, 32, bias=False)
        made.exit.weight.copy_(torch.eye(32))
        found = made(x, torch.tensor([0.2, 0.8]), torch.tensor([[0, 0], [3, 4]]))
    torch.testing.assert_close(found, x)
    with pytest.raises(ShapeError, match="multiple of 2"):
        ShapeFlow(5, 16, 1, torch.Generator())


def test_a_flow_learns_and_its_student_is_taught_with_words() -> None:
    teacher, student, draws = network(), network(), torch.Generator().manual_seed(0)
    clean = torch.full((8, 4, 4, 4, 4), 0.5)
    words = torch.tensor([[0, 1]] * 8)
    optimiser = torch.optim.Adam(teacher.parameters(), 1e-2)
    losses = []
    for _ in range(40):
        loss = flow_matching_loss(teacher, clean, words, draws)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    student.load_state_dict(teacher.state_dict())
    recipe = FlowRecipe(norm="rms", steps=10)
    loss, matching = flow_losses(recipe, told(student, words), told(teacher, words), clean, draws)
    loss.backward()
    assert matching.isfinite() and student.exit.weight.grad.abs().max() > 0
    made = flow.euler(told(student, words), torch.randn(8, 4, 4, 4, 4, generator=draws), 2)
    assert made.shape == clean.shape and made.isfinite().all()


def test_the_learning_rate_falls_to_nothing_or_stays() -> None:
    recipe = FlowRecipe(learning_rate=0.1, steps=10)
    assert rate_at(recipe, 0) == 0.1 and rate_at(recipe, 5) == pytest.approx(0.05) and rate_at(recipe, 10) < 1e-12
    assert rate_at(FlowRecipe(learning_rate=0.1, decay="none"), 9) == 0.1
