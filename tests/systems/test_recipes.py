"""Shipped recipes, all their stages, under the overlay tiny with small random networks of the real kind.

Those that make textured meshes are run whole in test_textured_recipes.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sds3d.config import load_recipe
from sds3d.config.shipped import recipe_files
from systems.build import build_system


def is_trained_plain(name: str) -> bool:
    """Recipes with textures are tested elsewhere, and what a generator makes at once is not trained."""
    recipe = load_recipe(name)
    return not recipe.export.texture_size and not recipe.is_at_once


@pytest.mark.parametrize("name", sorted(filter(is_trained_plain, recipe_files())))
def test_every_recipe_runs_under_tiny(name: str, tiny_prior: Path) -> None:
    """Two steps a stage: losses, gradients, score networks, and the asset handed from stage to stage."""
    small = ("training.steps=4", f"prior.path={tiny_prior}")
    recipe = load_recipe(name, ["tiny"], small, {"prompt.text": ("the prompt", "a red mug")})
    system = None
    for number, (stage_name, stage) in enumerate(recipe.plan()):
        system = build_system(stage, number=number, name=stage_name, before=system)
        optimiser = system.configure_optimizers()
        for step in range(2):
            loss, _, render = system.losses(step, "cpu")
            optimiser.zero_grad()
            loss.backward()
            gradients = [p.grad for p in system.renderer.parameters() if p.grad is not None]
            assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients)
            assert max(float(gradient.abs().max()) for gradient in gradients) > 0
            optimiser.step()
            system.scores.step(step, 4)
            system.renderer.after_step(step, optimiser, render)
        assert render.is_latent or render.rgb.shape[-1] == 3
        assert torch.isfinite(render.rgb).all()
