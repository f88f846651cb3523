"""From a recipe to the objects it names: device, prior, renderer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from renderers.base import Renderer
from sds3d.config import PriorConfig, Recipe
from sds3d.guidance.methods import METHODS
from sds3d.priors.base import Prior
from sds3d.prompts import TextRole
from systems.latents import show_by
from systems.makers import MAKERS
from systems.movement import inner_state, moving, still

if TYPE_CHECKING:
    from systems.base import DistillationSystem


PriorMaker = Callable[[Recipe, torch.device, PriorConfig | None], Prior]
"""Has the signature of `build_prior`."""


def choose_device(wanted: str) -> torch.device:
    """Return the device of "auto", "cpu" or "cuda"; auto is CUDA where there is a card."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def build_prior(recipe: Recipe, device: torch.device, config: PriorConfig | None = None) -> Prior:
    """Return the frozen prior of `recipe` (or of `config`) on `device`; it knows the prompt, its text encoders are freed.

    Raises: AssetError if its files are missing or broken; ConfigError for parts that do not go together.
    """
    from sds3d.priors.open import open_prior

    prior = open_prior(config or recipe.prior, device)
    introduce(prior, recipe)
    return prior


def introduce(prior: Prior, recipe: Recipe) -> None:
    """Let a prior, new or used before, know the prompt of `recipe`; its text encoders are freed then."""
    from sds3d.priors.open import remember_texts

    remember_texts(prior, recipe.prompt.build(), _roles(recipe))


def _roles(recipe: Recipe) -> set[TextRole]:
    """Return the roles of text that the recipe's methods ask for."""
    roles: set[TextRole] = {"y", "0"}
    for config in (recipe.guidance, *(extra.guidance for extra in recipe.also)):
        row = METHODS[config.method]
        roles |= {branch.text for branch in row.rule(config).needs} | set(row.noiser(config).asks)
    return roles


def build_renderer(
    recipe: Recipe,
    state: dict[str, Any] | None = None,
    number: int = 0,
    before: tuple[Renderer, Recipe] | None = None,
    prior: Prior | None = None,
) -> Renderer:
    """Return asset `number` of a stage on the CPU.

    It is fresh, or has the parameters in the checkpoint `state`, or is made from the asset of the stage `before`. Some
    starts are made with the `prior` (`Maker.asks_prior`).
    """
    maker = MAKERS[recipe.renderer.kind]
    saved = None if state is None else state["others"][number - 1] if number else state["renderer"]
    if recipe.motion is not None and saved is not None:
        inner = maker.restore(recipe, inner_state(saved), number)
        return moving(inner, recipe, number, saved)
    if saved is not None:
        return maker.restore(recipe, saved, number)
    made = (
        maker.fresh(recipe, number, prior)
        if before is None
        else maker.take_over(recipe, still(before[0]), before[1], number, prior)
    )
    return made if recipe.motion is None else moving(made, recipe, number, None if before is None else before[0])


def build_system(
    recipe: Recipe,
    state: dict[str, Any] | None = None,
    *,
    number: int = 0,
    name: str = "",
    before: DistillationSystem | None = None,
    prior_of: PriorMaker | None = None,
) -> DistillationSystem:
    """Return what `recipe`, one stage, optimises, ready to train.

    Args:
        state: a checkpoint to continue from.
        number: which stage it is, from 0, called `name` (empty where it is the only one).
        before: the finished stage whose assets are handed over, and whose priors are used again where they are the same.
        prior_of: gives the priors in place of `build_prior`, for callers that keep them loaded.
    """
    from systems.base import DistillationSystem

    device = choose_device(recipe.device)
    methods = [METHODS[config.method] for config in (recipe.guidance, *(extra.guidance for extra in recipe.also))]
    edits = any("source picture" in method.needs for method in methods)
    particles = range(recipe.training.particles)
    waits = state is None and MAKERS[recipe.renderer.kind].asks_prior(recipe, before is not None)

    def assets(prior: Prior | None = None) -> list[Renderer]:
        return [build_renderer(recipe, state, number, _handed_over(before, number), prior) for number in particles]

    # first: a start that cannot be read shall not cost the loading of weights
    made = [] if waits else assets()
    configs = (recipe.prior, *(extra.prior for extra in recipe.also))
    priors = [_known_prior(before, config) or (prior_of or build_prior)(recipe, device, config) for config in configs]
    made = made or assets(priors[0])
    source = None
    if edits:
        source = build_renderer(recipe, before=_handed_over(before, 0), prior=priors[0]).requires_grad_(False)
    for asset in made:
        show_by(asset, priors[0])
    system = DistillationSystem(
        recipe,
        priors[0],
        made[0],
        others=made[1:],
        more_priors=priors[1:],
        source=None if source is None else source.to(device),
        stage=number,
        name_of_stage=name,
    )
    if state is not None:
        system.restore(state)
    return system


def _handed_over(before: DistillationSystem | None, particle: int) -> tuple[Renderer, Recipe] | None:
    """Return the asset that asset `particle` of the next stage is made from, with the recipe it was made by."""
    if before is None:
        return None
    assets = before.assets
    return assets[min(particle, len(assets) - 1)].cpu(), before.recipe


def _known_prior(before: DistillationSystem | None, config: PriorConfig) -> Prior | None:
    """Return the prior of that configuration if the stage before has it loaded, and has not trained with it."""
    if before is None or before.scores.guides:
        return None
    configs = (before.recipe.prior, *(extra.prior for extra in before.recipe.also))
    loaded = (guide.prior for guide in before.guides)
    return next((prior for prior, its in zip(loaded, configs, strict=True) if its == config), None)
