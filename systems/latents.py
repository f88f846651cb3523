"""Assets whose points carry latents of the prior: which colours they stand for, and who shows them."""

from __future__ import annotations

import torch

from renderers.base import Renderer
from renderers.nerf import LatentDecoder, NerfRenderer
from sds3d.config import Recipe
from sds3d.priors.base import Prior
from sds3d.priors.latent_colours import latent_colours
from systems.randomness import generator_for


def latents_of(recipe: Recipe) -> bool:
    """Return whether the assets of `recipe`, one stage, draw latents."""
    return getattr(recipe.renderer, "channels", "rgb") == "latent"


def colour(renderer: NerfRenderer, recipe: Recipe, prior: Prior) -> None:
    """Tell a field of latents which colours they stand for in `prior`."""
    if renderer.field.mixing is not None:
        renderer.field.mixing.take(*latent_colours(prior, generator_for(recipe.seed, "prior", 0)))


def show_by(renderer: Renderer, prior: Prior) -> None:
    """Let pictures of an asset that draws latents be shown by the decoder of `prior`; other assets stay as they are."""
    if isinstance(renderer, NerfRenderer) and renderer.is_latent:
        with torch.no_grad():
            renderer.decoder = LatentDecoder(prior.decode, prior.latent_shape()[1])
