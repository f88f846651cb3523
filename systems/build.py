"""From a recipe to the objects it names: device, prior, renderer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from renderers.gaussians import initialise
from renderers.gaussians.density import DensitySettings
from renderers.gaussians.renderer import GaussianRenderer, GaussianSettings
from sds3d.config import Recipe
from sds3d.priors.base import Prior
from systems.randomness import generator_for

if TYPE_CHECKING:
    from systems.base import DistillationSystem

INITIAL_SHAPES = {"ball": initialise.ball, "shell": initialise.shell}


def choose_device(wanted: str) -> torch.device:
    """Return the device of "auto", "cpu" or "cuda"; auto is CUDA where there is a card."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def build_prior(recipe: Recipe, device: torch.device) -> Prior:
    """Return the frozen prior on `device`. Raises: AssetError if its folder is broken."""
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    named = recipe.prior.dtype
    automatic = torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = automatic if named == "auto" else getattr(torch, named)
    prior = LatentDiffusionPrior.from_folder(recipe.prior.folder, device, dtype)
    prior.has_camera = prior.has_camera and recipe.prior.camera
    return prior


def build_renderer(recipe: Recipe, state: dict[str, Any] | None = None) -> GaussianRenderer:
    """Return the renderer of `recipe` on the CPU: fresh, or with the parameters in the checkpoint `state`."""
    config, steps = recipe.renderer, recipe.training.steps
    density = config.density
    settings = GaussianSettings(
        backend=config.backend,
        rasterize_mode=config.rasterize_mode,
        largest_scale=config.largest_scale,
        density=DensitySettings(
            mode=density.mode,
            start=round(density.start * steps),
            stop=round(density.stop * steps),
            every=density.every,
            min_opacity=density.min_opacity,
            grow_gradient=density.grow_gradient,
            max_count=density.max_count,
            seed=recipe.seed,
        ),
    )
    generator = generator_for(recipe.seed, "start")
    shape = INITIAL_SHAPES[config.init]
    start = shape(config.count, config.init_radius, generator, opacity=config.init_opacity)
    renderer = GaussianRenderer(start, settings)
    if state is not None:
        renderer.resize_(len(state["renderer"]["means"])).load_state_dict(state["renderer"])
    return renderer


def build_system(recipe: Recipe, state: dict[str, Any] | None = None) -> DistillationSystem:
    """Return what `recipe` optimises, ready to train: from its start, or from the checkpoint `state`."""
    from systems.base import DistillationSystem

    prior = build_prior(recipe, choose_device(recipe.device))
    system = DistillationSystem(recipe, prior, build_renderer(recipe, state))
    if state is not None:
        system.restore(state)
    return system
