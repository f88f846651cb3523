"""Grids of toybox objects, their latents, and the flow that makes them."""

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
from sds3d.generators.shape_grids import FARTHEST, SHELL, field_values, shape_grid, turned
from sds3d.generators.shape_latents import ShapeLatents
from sds3d.toybox.captions import Description
from sds3d.toybox.palette import COLORS

DIM = 8


def network(seed: int = 0) -> ShapeFlow:
    return ShapeFlow(DIM, 16, 1, torch.Generator().manual_seed(seed))


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


def test_turning_a_grid_turns_its_object() -> None:
    grid = torch.zeros(1, 2, 4, 4)  # [channels, z, y, x]
    grid[0, 1, 2, 3] = 1.0  # on +x, a little towards +y
    assert torch.equal(turned(grid, 1)[0, 1].nonzero(), torch.tensor([[3, 1]]))  # on +y, a little towards -x
    assert torch.equal(turned(turned(grid, 1), 3), grid) and torch.equal(turned(grid, 4), grid)


def test_a_latent_space_keeps_what_lies_in_it_and_scales_it() -> None:
    draws = torch.Generator().manual_seed(0)
    plan = torch.randn(3, 4 * 8, generator=draws) * torch.tensor([[5.0], [2.0], [0.5]])
    grids = (torch.randn(200, 3, generator=draws) @ plan + 1.0).view(200, 4, 2, 2, 2)
    space = ShapeLatents.fit(grids, 3, draws)
    latents = space.encode(grids)
    torch.testing.assert_close(space.decode(latents), grids, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latents.T @ latents / 200, torch.eye(3), atol=1e-4, rtol=0)
    assert latents.mean(dim=0).abs().max() < 1e-4 and (space.scale.diff() < 0).all()
    exact = torch.linalg.svdvals((grids - grids.mean(dim=0)).flatten(1))[:2] / 200**0.5
    torch.testing.assert_close(ShapeLatents.fit(grids, 2, draws).scale, exact, rtol=1e-3, atol=0)  # the two largest
    with pytest.raises(ShapeError, match="more grids than numbers"):
        ShapeLatents.fit(grids[:3], 3, draws)


def test_a_flow_tells_words_and_times_apart() -> None:
    made = network()
    with torch.no_grad():  # it starts at velocity 0
        assert made(torch.ones(1, DIM), torch.ones(1), torch.zeros(1, 2, dtype=torch.long)).abs().max() == 0.0
        torch.nn.init.normal_(made.exit.weight, generator=torch.Generator().manual_seed(0))
        x = torch.ones(4, DIM)
        words = torch.tensor([[0, 0], [1, 0], [0, 1], [0, 0]])
        found = made(x, torch.tensor([0.5, 0.5, 0.5, 0.51]), words)
        alone = made(x[:1], torch.tensor([0.5]), words[:1])
    assert torch.pdist(found).min() > 1e-3
    torch.testing.assert_close(found[:1], alone)


def teach(teacher: ShapeFlow, steps: int, data: torch.Tensor, words: torch.Tensor) -> list[float]:
    """Train a flow and return its losses."""
    draws, losses = torch.Generator().manual_seed(0), []
    optimiser = torch.optim.Adam(teacher.parameters())
    recipe = FlowRecipe(learning_rate=1e-2, steps=steps)
    for step in range(steps):
        chosen = torch.randint(len(data), (64,), generator=draws)
        loss = flow_matching_loss(teacher, data[chosen], words[chosen], draws)
        optimiser.param_groups[0]["lr"] = rate_at(recipe, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def test_a_flow_learns_and_its_student_is_taught_with_words() -> None:
    teacher, student, draws = network(), network(), torch.Generator().manual_seed(0)
    words = torch.tensor([[0, 1]] * 8)
    losses = teach(teacher, 40, torch.full((8, DIM), 0.5), words)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    student.load_state_dict(teacher.state_dict())
    recipe = FlowRecipe(norm="rms", steps=10)
    clean = torch.full((8, DIM), 0.5)
    loss, matching = flow_losses(recipe, told(student, words), told(teacher, words), clean, draws)
    loss.backward()
    assert matching.isfinite() and student.exit.weight.grad.abs().max() > 0
    made = flow.euler(told(student, words), torch.randn(8, DIM, generator=draws), 2)
    assert made.shape == clean.shape and made.isfinite().all()


def nearness(made: torch.Tensor, corners: torch.Tensor) -> tuple[float, int]:
    """Return the mean distance to the nearest corner, and how many corners have a fair share."""
    distance, nearest = torch.cdist(made, corners).min(dim=1)
    return float(distance.mean()), int((torch.bincount(nearest, minlength=len(corners)) > 0.1 * len(made)).sum())


@pytest.mark.slow
def test_one_step_of_a_student_comes_close_to_many_of_its_teacher() -> None:
    """Four clouds nobody names, as four headings of an object: one step of the teacher falls in between, of the student not."""
    draws = torch.Generator().manual_seed(0)
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]) * 1.5
    data = corners.repeat(64, 1) + 0.1 * torch.randn(256, 2, generator=draws)
    words = torch.zeros(256, 2, dtype=torch.long)
    teacher, student = (ShapeFlow(2, 64, 2, torch.Generator().manual_seed(0)) for _ in range(2))
    teach(teacher, 600, data, words)
    student.load_state_dict(teacher.state_dict())
    recipe = FlowRecipe(norm="rms", learning_rate=2e-3, steps=600, batch=128, step=0.02)
    optimiser = torch.optim.Adam(student.parameters(), betas=(0.9, 0.99))
    told_student, told_teacher = (told(of, words[: recipe.batch]) for of in (student, teacher))
    for step in range(recipe.steps):
        chosen = torch.randint(256, (recipe.batch,), generator=draws)
        loss, _ = flow_losses(recipe, told_student, told_teacher, data[chosen], draws)
        optimiser.param_groups[0]["lr"] = rate_at(recipe, step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
    noise = torch.randn(256, 2, generator=draws)
    many, once, taught = (
        flow.euler(told(network, words), noise, steps) for network, steps in ((teacher, 25), (teacher, 1), (student, 1))
    )
    (sharp, covered), (blurred, _), (near, found) = (nearness(made, corners) for made in (many, once, taught))
    assert sharp < 0.35 and covered == 4
    assert blurred > 1.5  # the control: between the clouds, 2.1 from each
    assert near < 1.0 and found == 4
    assert (taught - many).square().mean().sqrt() < 0.6 < (once - many).square().mean().sqrt()  # and of the same noise


def test_the_learning_rate_falls_to_nothing_or_stays() -> None:
    recipe = FlowRecipe(learning_rate=0.1, steps=10)
    assert rate_at(recipe, 0) == 0.1 and rate_at(recipe, 5) == pytest.approx(0.05) and rate_at(recipe, 10) < 1e-12
    assert rate_at(FlowRecipe(learning_rate=0.1, decay="none"), 9) == 0.1
