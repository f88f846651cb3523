"""Text embeddings are made once, kept on disk under everything they depend on, and long prompts say what they lose."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from sds3d.errors import ShapeError
from sds3d.priors import text_store
from sds3d.priors.text_store import PromptCutWarning, TextStore, cache_folder, fingerprint, lost_words, warn_if_cut

AWKWARD = [
    "",
    " ",
    "a red mug",
    "A red mug",
    "een kopje\n",
    "红色的杯子",
    "\u0000",
    "\udcff",
    "x" * 100_000,
    "../../etc",
]


class Encoder:
    """Gives each text an embedding that depends on it, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> Tensor:
        self.asked.append(list(texts))
        values = [[len(text), sum(map(ord, text)) % 97, float(text[:1].isupper())] for text in texts]
        return torch.tensor(values).unsqueeze(1).expand(-1, 2, -1) / 7


def store(folder: Path | None = None, **changes: object) -> TextStore:
    about = {"model": "sd15", "revision": "abc", "encoder": "clip", "dtype": torch.float32, **changes}
    return TextStore(folder=folder, **about)  # type: ignore[arg-type]


def test_each_text_is_encoded_once_and_answers_keep_the_order_of_the_question() -> None:
    encode, texts = Encoder(), store()
    first = texts.get(["b", "a", "b"], encode)
    again = texts.get(["a", "c"], encode)
    assert encode.asked == [["b", "a"], ["c"]]
    assert first.shape == (3, 2, 3) and torch.equal(first[0], first[2])
    assert torch.equal(first[1], again[0]) and torch.equal(first[:2], Encoder()(["b", "a"]))


def test_a_second_process_reads_from_disk_bit_for_bit(tmp_path: Path) -> None:
    made = store(tmp_path, dtype=torch.bfloat16).get(AWKWARD, Encoder())
    encode, second = Encoder(), store(tmp_path, dtype=torch.bfloat16)
    assert second.knows(AWKWARD) and not second.knows(["another"])
    assert torch.equal(second.get(AWKWARD, encode), made) and made.dtype == torch.bfloat16
    assert encode.asked == []
    assert len({tuple(row.flatten().tolist()) for row in made}) > 5  # not one answer for all
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".safetensors"]


@pytest.mark.parametrize(
    "change", [{"model": "sd14"}, {"revision": "abd"}, {"encoder": "clip 2"}, {"dtype": torch.float16}]
)
def test_the_key_holds_everything_an_embedding_depends_on(tmp_path: Path, change: dict[str, object]) -> None:
    store(tmp_path).get(["a mug"], Encoder())
    encode = Encoder()
    store(tmp_path, **change).get(["a mug"], encode)
    assert encode.asked == [["a mug"]]


def test_parts_of_the_key_cannot_run_into_each_other(tmp_path: Path) -> None:
    one, other = store(tmp_path, model="ab", revision="c"), store(tmp_path, model="a", revision="bc")
    assert one.file("x") != other.file("x")


@pytest.mark.parametrize("damage", ["truncated", "empty", "foreign"])
def test_a_broken_file_is_made_again(tmp_path: Path, damage: str) -> None:
    texts = store(tmp_path)
    good = texts.get(["a mug"], Encoder())
    file = texts.file("a mug")
    assert file is not None
    other = store(tmp_path, model="other")
    other.get(["a mug"], lambda _: torch.zeros(1, 2, 3))
    content = {"truncated": file.read_bytes()[:-3], "empty": b"", "foreign": other.file("a mug").read_bytes()}[damage]  # type: ignore[union-attr]
    file.write_bytes(content)
    encode = Encoder()
    assert torch.equal(store(tmp_path).get(["a mug"], encode), good) and encode.asked == [["a mug"]]
    assert store(tmp_path).knows(["a mug"])


def test_a_folder_that_cannot_be_written_does_not_end_the_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    texts = store(tmp_path / "file")
    with pytest.warns(UserWarning, match="not cached"):
        assert texts.get(["a", "b"], Encoder()).shape == (2, 2, 3)


def test_an_encoder_that_loses_a_text_is_an_error() -> None:
    with pytest.raises(ShapeError, match=r"\[2, rows, dim\] is needed"):
        store().get(["a", "b"], lambda texts: torch.zeros(1, 2, 3))


def test_a_meta_device_writes_nothing(tmp_path: Path) -> None:
    made = store(tmp_path, device="meta").get(["a"], Encoder())
    assert made.device.type == "meta" and not any(tmp_path.iterdir())


def test_embeddings_carry_no_graph() -> None:
    weight = torch.ones(1, requires_grad=True)
    assert not store().get(["a"], lambda texts: Encoder()(texts) * weight).requires_grad


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(text_store.CACHE_VARIABLE, "off")
    assert cache_folder() is None
    monkeypatch.setenv(text_store.CACHE_VARIABLE, str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv(text_store.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sds3d" / "texts"


def test_a_changed_folder_has_another_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "text_encoder").mkdir()
    file = tmp_path / "text_encoder" / "model.safetensors"
    file.write_bytes(b"old")
    before = fingerprint(tmp_path, ["text_encoder"])
    (tmp_path / "unet.safetensors").write_bytes(b"another part")
    assert fingerprint(tmp_path, ["text_encoder"]) == before
    file.write_bytes(b"new")
    os.utime(file, ns=(1, 1))
    assert fingerprint(tmp_path, ["text_encoder"]) != before


def test_only_large_encoders_get_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "model.safetensors").write_bytes(b"12345")
    monkeypatch.setenv(text_store.CACHE_VARIABLE, str(tmp_path / "cache"))
    assert TextStore.of_folder(tmp_path, ["text_encoder"], torch.float32).folder is None
    monkeypatch.setattr(text_store, "SMALL_ENCODER_BYTES", 5)
    assert TextStore.of_folder(tmp_path, ["text_encoder"], torch.float32).folder == tmp_path / "cache"


@pytest.fixture(scope="module")
def tokenizer(tiny_folder: Path):  # type: ignore[no-untyped-def]
    """A CLIP tokenizer that spells: one token a letter, two special tokens, 12 in all."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(tiny_folder / "tokenizer")


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("", ""),
        ("ab cd efgh", ""),  # 8 letters + 2
        ("abcd efghij", ""),  # 10 letters + 2: exactly 12
        ("abcd efghij k", "k"),
        ("abcd efghijk lm", "efghijk lm"),
        ("abcdefghijklm", "klm"),
    ],
)
def test_lost_words_are_those_behind_the_longest_prefix_that_fits(tokenizer, text: str, lost: str) -> None:  # type: ignore[no-untyped-def]
    assert lost_words(tokenizer, text, 12) == lost
    kept = text[: len(text) - len(lost)]
    assert len(tokenizer(kept).input_ids) <= 12


def test_long_prompts_warn_with_the_words_and_short_ones_do_not(tokenizer) -> None:  # type: ignore[no-untyped-def]
    with pytest.warns(PromptCutWarning, match="12 tokens .* not heard: 'the table'. Shorten"):
        assert warn_if_cut(tokenizer, "a red mugs on the table", 12) == "the table"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert warn_if_cut(tokenizer, "a mug", 12) == ""


def test_unicode_and_very_long_prompts_are_cut_quickly() -> None:
    def spell(text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=[0, *text, 1])

    started = time.process_time()
    for text, lost in (("红色的杯子" * 50, 240), ("mug " * 20_000, None), ("\udcff\u0000é" * 20, 50)):
        with pytest.warns(PromptCutWarning) as caught:
            assert lost is None or warn_if_cut(spell, text, 12) == text[-lost:]
            assert lost is not None or warn_if_cut(spell, text, 12) == " ".join(["mug"] * 19_998)
        assert len(str(caught[0].message)) < 600
    assert time.process_time() - started < 2
