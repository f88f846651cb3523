"""From a recipe to the objects it names: device, prior, renderer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from renderers.gaussians.renderer import GaussianRenderer
from sds3d.config import LatentPriorConfig, Recipe
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Prior
from systems.clouds import gaussian_renderer

if TYPE_CHECKING:
    from systems.base import DistillationSystem


def choose_device(wanted: str) -> torch.device:
    """Return the device of "auto", "cpu" or "cuda"; auto is CUDA where there is a card."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def build_prior(recipe: Recipe, device: torch.device, config: LatentPriorConfig | None = None) -> Prior:
    """Return the frozen prior of `recipe` (or of `config`) on `device`. Raises: AssetError if its folder is broken."""
    from sds3d.priors.latent_diffusion import LatentDiffusionPrior

    config = config or recipe.prior
    automatic = torch.float16 if device.type == "cuda" else torch.float32
    dtype: torch.dtype = automatic if config.dtype == "auto" else getattr(torch, config.dtype)
    prior = LatentDiffusionPrior.from_folder(config.folder, device, dtype)
    prior.has_camera = prior.has_camera and config.camera
    return prior


def build_renderer(recipe: Recipe, state: dict[str, Any] | None = None, number: int = 0) -> GaussianRenderer:
    """Return asset `number` of `recipe` on the CPU: fresh, or with the parameters in the checkpoint `state`."""
    saved = None if state is None else (state["others"][number - 1] if number else state["renderer"])
    return gaussian_renderer(recipe, saved, number)


def build_system(recipe: Recipe, state: dict[str, Any] | None = None) -> DistillationSystem:
    """Return what `recipe` optimises, ready to train: from its start, or from the checkpoint `state`."""
    from systems.base import DistillationSystem

    device = choose_device(recipe.device)
    methods = [METHODS[config.method] for config in (recipe.guidance, *(extra.guidance for extra in recipe.also))]
    edits = any("source picture" in method.needs for method in methods)
    renderer = build_renderer(recipe, state)  # first: a start that cannot be read shall not cost the loading of weights
    system = DistillationSystem(
        recipe,
        build_prior(recipe, device),
        renderer,
        others=[build_renderer(recipe, state, number) for number in range(1, recipe.training.particles)],
        more_priors=[build_prior(recipe, device, extra.prior) for extra in recipe.also],
        source=build_renderer(recipe).requires_grad_(False).to(device) if edits else None,
    )
    if state is not None:
        system.restore(state)
    return system
