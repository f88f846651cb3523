"""From a generator recipe to the objects it names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sds3d.config.generator import GeneratorRecipe
from sds3d.config.prior import PriorConfig
from sds3d.errors import AssetError, ConfigError
from sds3d.generators.base import LatentGenerator
from sds3d.generators.reader import PromptReader
from sds3d.generators.texts import TableOfTexts, WithTable
from sds3d.generators.weights import StoredGenerator, fingerprint_of, load_into
from sds3d.priors.base import Prior
from sds3d.priors.open import HasTextEncoders
from systems.build import choose_device
from systems.randomness import generator_for

if TYPE_CHECKING:
    from systems.generator_core import GeneratorCore, Prompts


def open_priors(recipe: GeneratorRecipe, device: torch.device) -> tuple[Prior | None, list[Prior]]:
    """Return the base and the teachers; equal configurations share one model, and so its weights."""
    from sds3d.priors.open import open_prior

    opened: dict[str, Prior] = {}

    def once(config: PriorConfig) -> Prior:
        key = config.model_dump_json(exclude={"camera"})
        key += str(config.camera)
        if key not in opened:
            opened[key] = open_prior(config, device)
        return opened[key]

    base = None if recipe.base is None else once(recipe.base)
    return base, [once(teacher.prior) for teacher in recipe.teachers]


def make_generator(recipe: GeneratorRecipe, base: Prior | None) -> LatentGenerator:
    """Return the untrained generator on the base's device. Raises: ConfigError without a base where one is needed."""
    draws = generator_for(recipe.seed, "start")
    if base is None:
        raise ConfigError("A generator reads prompts with its base model, but 'base' is null. Name one.", path="base")
    if recipe.network.kind == "tiny":
        from sds3d.generators.tiny import TinyTriplaneGenerator

        width = base.text([base.null_text]).shape[2]
        levels: Any = base.levels  # type: ignore[attr-defined]
        return TinyTriplaneGenerator(recipe.network, levels, width, draws).to(base.device)  # type: ignore[return-value]
    from sds3d.generators.adapted import AdaptedGenerator

    return AdaptedGenerator(base, recipe.network, draws)  # type: ignore[arg-type]


def base_fingerprint(recipe: GeneratorRecipe) -> str:
    """Return what identifies the base's weights: the text encoder for a tiny generator, all networks otherwise."""
    from sds3d.priors.source import check_prior

    if recipe.base is None:
        return ""
    folder = check_prior(recipe.base).folder
    if folder is None:
        return str(recipe.base.path)
    is_tiny = recipe.network.kind == "tiny"
    return fingerprint_of({name: w for name, w in folder.weights.items() if not is_tiny or name.startswith("text")})


def load_generator(
    stored: StoredGenerator, device: str = "auto", base: Prior | None = None
) -> tuple[LatentGenerator, Prior]:
    """Return a trained generator and the base it reads prompts with.

    Raises: AssetError if the base on this machine is not the one it was trained with.
    """
    from sds3d.priors.open import open_prior

    recipe = stored.about.recipe
    if recipe.base is None:
        raise ConfigError("The generator names no base model, so it cannot read prompts. Use another.", path="base")
    if base is None:
        here = base_fingerprint(recipe)
        if here != stored.about.base:
            raise AssetError(
                f"The generator was trained with the base '{recipe.base.path}' of fingerprint {stored.about.base}, but "
                f"the one here has {here}. Install that version of the model."
            )
        own_network = recipe.network.kind == "tiny" and PromptReader.reads(recipe.base)
        open_base: Any = PromptReader if own_network else open_prior
        base = open_base(recipe.base, choose_device(device))
    generator = make_generator(recipe, base)
    load_into(generator, stored)
    return generator.eval(), base


def build_core(
    recipe: GeneratorRecipe, prompts: Prompts, folder: Path | None = None, priors: Sequence[Any] | None = None
) -> GeneratorCore:
    """Return what trains the recipe's generator.

    folder: where text embeddings are kept (made once, read from disk in every step); None: in memory.
    priors: (base, teachers) that are open already.
    """
    from systems.generator_core import GeneratorCore

    device = choose_device(recipe.device)
    base, teachers = priors if priors is not None else open_priors(recipe, device)
    if base is None:
        raise ConfigError("A generator reads prompts with its base model, but 'base' is null. Name one.", path="base")
    text_of, judges = base.text, list(teachers)
    if folder is not None:
        models = [recipe.base, *(teacher.prior for teacher in recipe.teachers)]
        tables: dict[int, WithTable] = {}
        for place, (prior, model) in enumerate(zip([base, *teachers], models, strict=True)):
            if id(prior) not in tables:
                about = f"{prompts.fingerprint()} {model.model_dump_json() if model else ''}"
                table = TableOfTexts.make(folder / f"texts-{place}.bin", prior, _texts(prompts), about)
                tables[id(prior)] = WithTable(prior, table)
                if isinstance(prior, HasTextEncoders):
                    prior.free_text_encoders()
        text_of, judges = tables[id(base)].text, [tables[id(prior)] for prior in teachers]
    generator = make_generator(recipe, base)
    return GeneratorCore(recipe, generator, judges, text_of, prompts)


def _texts(prompts: Prompts) -> Iterator[str]:
    for number in range(len(prompts)):
        yield from prompts.batch([number])
