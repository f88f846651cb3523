"""Runs that begin with a field of latents: built with the prior, restored without it, handed over to colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from renderers.nerf import NerfRenderer
from sds3d.cameras import turntable
from sds3d.config import Recipe, load_recipe
from systems.build import build_renderer, build_system
from systems.pictures import film


@pytest.fixture(scope="module")
def recipe(tiny_prior: Path) -> Recipe:
    small = [f"prior.path={tiny_prior}", "training.steps=4", "renderer.sampling.count=16"]
    return load_recipe("latentnerf", ["tiny"], small, {"prompt.text": ("the prompt", "a red mug")})


def steps(system: Any, count: int = 2) -> Any:
    """Train a little, without Lightning; return the optimiser."""
    optimiser = system.configure_optimizers()
    for step in range(system.steps_done, system.steps_done + count):
        loss, _, render = system.losses(step, "cpu")
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        system.renderer.after_step(step, optimiser, render)
    system.steps_done += count
    return optimiser


def test_latents_are_trained_then_colours(recipe: Recipe) -> None:
    (_, latent), (_, rgb) = recipe.plan()
    first = build_system(latent, name="latent")
    field = first.renderer
    assert isinstance(field, NerfRenderer) and field.is_latent and field.field.latents == 4
    assert field.field.mixing is not None and field.decoder is not None
    mixing = field.field.mixing.weight.detach().clone()
    assert mixing.abs().sum() > 0
    steps(first)
    assert torch.equal(field.field.mixing.weight, mixing), "the layer waits for the stage of colours"
    pictures = film(field, turntable(2, 20), 0.5)
    assert pictures.shape == (2, 20, 20, 3)

    second = build_system(rgb, number=1, name="rgb", before=first)
    refined = second.renderer
    assert isinstance(refined, NerfRenderer) and not refined.is_latent and refined.field.mixing is not None
    assert torch.equal(refined.field.network.linears[0].weight, field.field.network.linears[0].weight)  # type: ignore[arg-type]
    assert second.guidance.prior is first.guidance.prior
    steps(second)
    assert not torch.equal(refined.field.mixing.weight, mixing)
    mesh = refined.to_mesh(16, 500)
    assert len(mesh.faces) > 0 and mesh.colors.min() >= 0 and mesh.colors.max() <= 1


def test_a_checkpoint_needs_no_prior(recipe: Recipe) -> None:
    for _, stage in recipe.plan():
        before = build_system(recipe.plan()[0][1], name="latent")
        system = before if stage.renderer.channels == "latent" else build_system(stage, number=1, before=before)
        state = system.state(steps(system))
        again = build_renderer(stage, state)
        assert isinstance(again, NerfRenderer) and again.decoder is None
        for name, value in system.renderer.state_dict().items():
            assert torch.equal(again.state_dict()[name], value), name
        resumed = build_system(stage, state, number=system.stage)
        torch.testing.assert_close(resumed.losses(2, "cpu")[0], system.losses(2, "cpu")[0])


@pytest.mark.slow
def test_a_field_of_latents_can_learn_another_asset(recipe: Recipe, tiny_prior: Path) -> None:
    """A stage of latents may come after any kind: the map to colours says which latents a colour has."""
    (_, latent), _ = recipe.plan()
    keys = [f"prior.path={tiny_prior}", "renderer.init_opacity=0.9", "renderer.count=200"]
    splats = load_recipe("quickstart", ["tiny"], keys, {"prompt.text": ("the prompt", "a red mug")})
    before = build_system(splats)
    with torch.no_grad():
        before.renderer.sh0[:] = torch.tensor([1.2, -1.2, -1.2])  # type: ignore[index]
    after = build_system(latent, number=1, name="latent", before=before).renderer
    assert isinstance(after, NerfRenderer) and after.is_latent
    colour = after.color_at(torch.zeros(1, 3))[0]
    assert colour[0] > 0.6 and colour[1:].max() < 0.4
