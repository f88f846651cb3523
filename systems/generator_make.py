"""Objects of a trained generator as assets of a recipe: made at once from prompt and seed, nothing is optimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from renderers.base import Renderer
from renderers.triplane_object import TriplaneRenderer
from sds3d.config import Recipe
from sds3d.config.generator_views import ViewConfig, VolumeConfig
from sds3d.errors import ConfigError
from sds3d.generators.base import Latents
from sds3d.generators.progress import sample
from sds3d.generators.weights import StoredGenerator, read_weights
from systems.randomness import generator_for

if TYPE_CHECKING:
    from sds3d.generators.base import LatentGenerator
    from sds3d.priors.base import Prior


@dataclass
class GeneratorInMemory:
    """A generator that makes one object after the other. Use `open_generator`."""

    stored: StoredGenerator
    generator: LatentGenerator
    base: Prior

    @torch.no_grad()
    def make(self, prompt: str, seed: int, number: int = 0) -> TriplaneRenderer:
        """Return object `number` of `prompt` and `seed`. Raises: ConfigError for generators of pictures."""
        recipe = self.stored.about.recipe
        draws = generator_for(seed, "start", number, stage=2)
        text = self.base.text([prompt])
        assets = self.generator.decode(sample(self.generator, text, recipe.turns, draws))
        if isinstance(assets, Latents):
            raise ConfigError("This generator makes pictures, not 3D objects. Give the file of a triplane generator.")
        return TriplaneRenderer(assets, finest(recipe.views))


def finest(views: Sequence[ViewConfig]) -> VolumeConfig:
    """Return how to show objects trained with `views`: the volume renderer's settings, twice the samples."""
    own = next((view.volume for view in views if view.kind == "volume"), VolumeConfig(samples=64))
    return own.model_copy(update={"samples": 2 * own.samples, "normals": False, "keep_surface": False})


def open_generator(weights: Path, device: str = "auto") -> GeneratorInMemory:
    """Return the generator in the file `weights`; the last two stay in memory, so a batch reads its file once.

    Raises: AssetError if it is broken or its base is another here.
    """
    changed = weights.stat().st_mtime_ns if weights.is_file() else 0
    return _opened(weights, device, changed)


@lru_cache(maxsize=2)
def _opened(weights: Path, device: str, changed: int) -> GeneratorInMemory:
    from systems.generator_build import load_generator

    stored = read_weights(weights)
    return GeneratorInMemory(stored, *load_generator(stored, device))


# ---- the three ways to an asset, see `systems.makers`


def fresh(recipe: Recipe, number: int, prior: Prior | None = None) -> TriplaneRenderer:
    """Return object `number` of the recipe's prompt and seed. Raises: AssetError if the generator cannot be read."""
    config: Any = recipe.renderer
    return open_generator(config.file, recipe.device).make(recipe.prompt.text, recipe.seed, number).cpu()


def restore(recipe: Recipe, saved: dict[str, Any], number: int) -> TriplaneRenderer:
    """Return the object `saved` by its `state_dict`; the generator is not needed for that."""
    return TriplaneRenderer.from_state(saved)


def take_over(
    recipe: Recipe, before: Renderer, made_by: Recipe, number: int, prior: Prior | None = None
) -> TriplaneRenderer:
    """Refuse: a generator makes its object of the prompt alone. Raises: ConfigError."""
    raise ConfigError("A generator cannot begin with the asset of another stage. Use it without stages.", path="stages")
