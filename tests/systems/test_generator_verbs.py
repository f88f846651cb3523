"""Assets without optimisation: which options go together, and what is said where a generator is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sds3d.config.generator import GeneratorRecipe
from sds3d.errors import ConfigError
from sds3d.generators.weights import write_weights
from systems import generator_verbs
from systems.generator_verbs import at_once


def test_at_once_wants_the_recipe_it_was_trained_with_and_nothing_of_an_optimisation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "small.safetensors"
    write_weights(path, GeneratorRecipe(name="mine"), {"x": torch.zeros(1)}, "base", 3)
    with pytest.raises(ConfigError, match=r"'small\.safetensors' was trained with 'mine'"):
        at_once("a car", path, "triplaneturbo-tiny", False)
    with pytest.raises(ConfigError, match="--weights makes the asset without optimisation"):
        at_once("a car", path, None, True)
    asked: list[Any] = []
    monkeypatch.setattr(generator_verbs, "generate_with", lambda *args, **options: asked.append((args, options)) or 0)
    assert at_once("a car", path, "mine", False, seed=4) == 0
    assert asked == [(("a car", path), {"out": None, "seed": 4, "device": "auto"})]
