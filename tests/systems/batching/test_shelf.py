"""What a worker keeps between assets stays small: priors on the shelf, texts in a prior's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from sds3d.config import PriorConfig, load_recipe
from sds3d.priors.text_store import REMEMBERED, TextStore
from systems.batching.shelf import LARGEST, Shelf, trains


def test_texts_of_earlier_prompts_make_room() -> None:
    asked: list[str] = []

    def encode(texts: Sequence[str]) -> torch.Tensor:
        asked.extend(texts)
        return torch.tensor([float(len(text)) for text in texts]).reshape(-1, 1, 1)

    store = TextStore(model="m", revision="r", encoder="e", dtype=torch.float32)
    for number in range(400):
        texts = ["", f"a mug {number}", f"a mug {number}, back view"]
        assert store.get(texts, encode).flatten().tolist() == [float(len(text)) for text in texts]
        assert len(store._memory) <= REMEMBERED
        assert store.knows(texts), "what was asked for last is known"
    assert asked.count("") == 1, "what every prompt asks for is never forgotten"
    assert len(asked) == 801
    many = [f"text {number}" for number in range(3 * REMEMBERED)]
    assert store.get(many, encode).shape == (3 * REMEMBERED, 1, 1) and store.knows(many)


def test_few_priors_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from systems import build

    opened: list[str] = []

    def open_prior(config: PriorConfig, device: Any) -> Any:
        opened.append(config.path)
        return object()

    monkeypatch.setattr("sds3d.priors.open.open_prior", open_prior)
    monkeypatch.setattr(build, "introduce", lambda prior, recipe: None)
    recipe, shelf, device = load_recipe(), Shelf(), torch.device("cpu")

    def prior(path: str) -> Any:
        return shelf(recipe, device, PriorConfig(path=path))

    first = prior("a")
    assert prior("a") is first and opened == ["a"]
    for path in "bcde"[: LARGEST - 1]:
        prior(path)
    assert prior("a") is first, "there is room for all"
    prior("f")  # the one used longest ago, b, makes room
    assert prior("a") is first
    count = len(opened)
    prior("b")
    assert len(opened) == count + 1 == shelf.loaded


def test_recipes_that_train_a_network_in_any_stage_are_known() -> None:
    assert not trains(load_recipe()) and trains(load_recipe("prolificdreamer"))
    staged = load_recipe("magic3d")
    assert len(staged.plan()) == 2 and not trains(staged)
    name = staged.plan()[1][0]
    assert trains(load_recipe("magic3d", [], [f"stages.{name}.guidance.method=vsd"]))
