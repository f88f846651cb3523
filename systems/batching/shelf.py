"""Priors that stay loaded from one asset to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.config import PriorConfig, Recipe
from sds3d.guidance.table.trained import TrainedConfig

if TYPE_CHECKING:
    import torch

    from sds3d.priors.base import Prior

LARGEST = 4
"""Priors that are kept at most; the one used longest ago makes room."""


class Shelf:
    """Opens priors and keeps them; has the signature of `systems.build.build_prior`.

    What it returns answers as a prior that was just loaded. Not for recipes that train a score network (`trains`): the
    network leaves hooks behind in the prior it stands on.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[PriorConfig, str], Prior] = {}
        self.loaded = 0
        """Priors read from disk so far."""

    def __call__(self, recipe: Recipe, device: torch.device, config: PriorConfig | None = None) -> Prior:
        """Return the prior of `recipe` (or of `config`) on `device`; it knows the prompt."""
        from sds3d.priors.open import open_prior
        from systems.build import introduce

        key = (config or recipe.prior, str(device))
        prior = self._kept.pop(key, None)
        if prior is None:
            prior = open_prior(key[0], device)
            self.loaded += 1
        while len(self._kept) >= LARGEST:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = prior
        introduce(prior, recipe)
        return prior


def trains(recipe: Recipe) -> bool:
    """Return whether any method of any stage trains a score network."""
    stages = [stage for _, stage in recipe.plan()]
    methods = [stage.guidance for stage in stages]
    methods += [further.guidance for stage in stages for further in stage.also]
    return any(isinstance(method, TrainedConfig) for method in methods)
