"""Assets without optimisation: which options go together, and what is said where a generator is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import AssetError, ConfigError
from sds3d.generators.weights import write_weights
from systems import generator_make, generator_verbs
from systems.generator_verbs import at_once


def test_at_once_wants_the_recipe_it_was_trained_with_and_nothing_of_an_optimisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.safetensors"
    write_weights(path, GeneratorRecipe(name="mine"), {"x": torch.zeros(1)}, "base", 3)
    with pytest.raises(ConfigError, match=r"'small\.safetensors' was trained with 'mine'"):
        at_once("a car", path, False, "triplaneturbo-tiny", False)
    with pytest.raises(ConfigError, match="--instant makes the asset without optimisation"):
        at_once("a car", None, True, None, True)
    with pytest.raises(ConfigError, match="either --weights FILE or --instant"):
        at_once("a car", path, True, None, False)
    asked: list[Any] = []
    monkeypatch.setattr(generator_verbs, "generate_with", lambda *args, **options: asked.append((args, options)) or 0)
    assert at_once("a car", path, False, "mine", False, seed=4) == 0
    assert asked == [(("a car", path), {"out": None, "seed": 4, "device": "auto"})]
    monkeypatch.setattr(generator_make, "shipped", lambda *parts: tmp_path.joinpath(*parts))
    with pytest.raises(AssetError, match=r"No generator for --instant is installed .*Train one with 'train"):
        at_once("a yellow car", None, True, None, False)
