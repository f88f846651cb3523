"""Prompt debiasing: which words a view loses, with a language model made by hand and with a tiny real one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sds3d.debias import debiased, masked_language_model, prompts_by_view
from sds3d.errors import AssetError, ConfigError
from sds3d.prompts import VIEWS, Prompt, View


def smiling_is_seen_from_the_front(text: str) -> Mapping[View, float]:
    front = 0.7 if "smiling" in text else 0.25
    return {view: front if view == "front" else (1 - front) / 3 for view in VIEWS}


def test_a_word_is_left_out_where_it_speaks_against_the_view() -> None:
    found = prompts_by_view("a smiling dog", smiling_is_seen_from_the_front)
    assert found == {"front": "a smiling dog", "side": "a dog", "back": "a dog", "overhead": "a dog"}


def test_the_rule_is_a_ratio_to_the_mean_of_both() -> None:
    """With P = 0.25 and P without the word x: left out where 0.25 / (x / 2 + 0.125) < 0.95, that is x > 0.2763."""
    for without, stays in ((0.27, True), (0.28, False)):

        def likelihood(text: str, without: float = without) -> Mapping[View, float]:
            share = 0.25 if "red" in text else without
            return {view: share if view == "back" else (1 - share) / 3 for view in VIEWS}

        assert ("red" in prompts_by_view("red dog", likelihood)["back"]) == stays


def test_only_allowed_words_are_left_out() -> None:
    assert prompts_by_view("a smiling dog", smiling_is_seen_from_the_front, [0, 2])["back"] == "a smiling dog"
    with pytest.raises(ConfigError, match=r"prompt.debias_words names word 3, but the prompt has words 0 to 2"):
        prompts_by_view("a smiling dog", smiling_is_seen_from_the_front, [3])


def test_a_prompt_never_becomes_empty() -> None:
    assert prompts_by_view("smiling", smiling_is_seen_from_the_front)["back"] == "smiling"


def test_views_read_their_own_text() -> None:
    prompt = Prompt(text="a smiling dog", by_view={"back": "a dog"})
    texts = dict(zip(VIEWS, prompt.texts(), strict=True))
    assert texts["back"] == "a dog, back view" and texts["front"] == "a smiling dog, front view"
    assert prompt.texts("plain") == ("a smiling dog",)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """A tiny random BERT that knows the words of the template."""
    from transformers import BertConfig, BertForMaskedLM, BertTokenizer

    words = ("this", "image", "is", "depicting", "a", "view", "of", "red", "dog", *VIEWS)
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])}
    BertTokenizer(vocab=vocabulary).save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertForMaskedLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_a_language_model_gives_a_distribution_over_views(bert: Path) -> None:
    likelihood = masked_language_model(bert)
    found = likelihood("a red dog")
    assert list(found) == list(VIEWS) and sum(found.values()) == pytest.approx(1.0) and min(found.values()) > 0
    assert found == likelihood("a red dog") != likelihood("a dog")
    prompt = debiased(Prompt(text="a red dog"), bert)
    assert set(prompt.by_view) == set(VIEWS)


def test_a_missing_language_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"language model in prompt.debias, '.*nowhere', cannot be loaded"):
        masked_language_model(tmp_path / "nowhere")
