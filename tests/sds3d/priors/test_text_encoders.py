"""Text rules of image priors: cut with a warning, unicode, the disk cache, encoders that are freed."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from sds3d.errors import AssetError
from sds3d.priors import text_store
from sds3d.priors.latent_diffusion import LatentDiffusionPrior
from sds3d.priors.loading import load_tokenizer
from sds3d.priors.pixel_cascade import PixelCascadePrior
from sds3d.priors.text_store import PromptCutWarning, TextStore
from sds3d.priors.unet_prior import UNetPrior

FAMILIES = {"sd_folder": LatentDiffusionPrior, "sdxl_folder": LatentDiffusionPrior, "if_folder": PixelCascadePrior}
LONG = "a red mug on the old table beside nothing at all " * 4


@pytest.fixture(scope="module", params=list(FAMILIES))
def prior(request: pytest.FixtureRequest) -> UNetPrior:
    return FAMILIES[request.param].from_folder(request.getfixturevalue(request.param))


def test_a_long_text_is_cut_with_a_warning_that_names_the_words_lost(prior: UNetPrior) -> None:
    with pytest.warns(PromptCutWarning, match=r"longer than the \d+ tokens.*'.*nothing at all'") as caught:
        cut = prior.text([LONG])
    assert len(caught) == 1
    lost = str(caught[0].message).split("'")[1]
    kept = LONG.strip().removesuffix(lost).strip()
    assert kept and cut.isfinite().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.text([LONG])  # said once
        prior.text([kept])  # what was kept fits


@pytest.mark.parametrize("text", ["ein Krug 水差し 🏺", "é" * 3, "\ud83d", "\n\t", "a" * 20_000, "\x00"[1:]])
def test_any_text_has_an_embedding(prior: UNetPrior, text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PromptCutWarning)
        embedding = prior.text([text])
    assert embedding.shape[0] == 1 and embedding.isfinite().all()
    assert embedding.shape == prior.text([""]).shape


def test_texts_are_encoded_by_themselves_and_in_order(prior: UNetPrior) -> None:
    together = prior.text(["a car", "", "a mug", "a car"])
    assert torch.equal(together[0], together[3])
    for i, text in enumerate(["a car", "", "a mug"]):
        assert torch.equal(prior.text([text])[0], together[i])
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_store_that_knows_all_texts_no_encoder_is_read(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    folder: Path = request.getfixturevalue(family)
    kind = FAMILIES[family]

    def store() -> TextStore:
        return TextStore(model="m", revision="1", encoder="e", dtype=torch.float32, folder=tmp_path / "cache")

    first = kind.from_folder(folder, store=store())
    expected = first.text(["a red mug", ""])
    with pytest.warns(PromptCutWarning):
        first.text([LONG])
    first.free_text_encoders()
    assert not first.text_encoders.networks
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "text_encoder" / "config.json").write_text((copy / "unet" / "config.json").read_text())
    second = kind.from_folder(copy, store=store())
    assert torch.equal(second.text(["", "a red mug"]), expected.flip(0))
    with pytest.warns(PromptCutWarning):
        second.text([LONG])  # said again, though nothing is encoded
    with pytest.raises(AssetError, match="text_encoder of the prior"):
        second.text(["something new"])


def test_large_encoders_wait_for_the_first_unknown_text(
    sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder's own store: kept on disk, and another clip skip is another store."""
    monkeypatch.setattr(text_store, "SMALL_ENCODER_BYTES", 0)
    monkeypatch.setenv(text_store.CACHE_VARIABLE, str(tmp_path))
    texts = []
    for clip_skip, is_known in [(0, False), (0, True), (1, False), (1, True)]:
        prior = LatentDiffusionPrior.from_folder(sd_folder, clip_skip=clip_skip)
        assert not prior.text_encoders.networks
        texts.append(prior.text(["a red mug"]))
        assert bool(prior.text_encoders.networks) != is_known
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[2], texts[3])
    assert (texts[0] - texts[2]).abs().max() > 1e-3


def test_a_foreign_encoder_is_refused(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder, tmp_path / "p")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CLIPTextModel", "GemmaModel"))
    with pytest.raises(AssetError, match=r"text_encoder of the prior .* is a GemmaModel, but CLIPTextModel"):
        LatentDiffusionPrior.from_folder(folder)


def test_an_encoder_without_a_pooled_vector_is_refused(sdxl_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sdxl_folder, tmp_path / "p")
    shutil.rmtree(folder / "text_encoder_2")
    shutil.copytree(sdxl_folder / "text_encoder", folder / "text_encoder_2")
    config = json.loads((folder / "text_encoder_2/config.json").read_text())
    (folder / "text_encoder_2/config.json").write_text(json.dumps(config | {"projection_dim": 20}))
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CLIPTextModelWithProjection", "CLIPTextModel"))
    prior = LatentDiffusionPrior.from_folder(folder)
    with pytest.raises(AssetError, match=r"text_encoder_2 of the prior .* has no pooled vector"):
        prior.text(["a mug"])


def test_a_sentencepiece_file_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    class Tokenizer:
        @staticmethod
        def from_pretrained(*_: object, **__: object) -> None:
            raise ImportError("`tiktoken` is required")

    (tmp_path / "spiece.model").write_bytes(b"")
    with pytest.raises(AssetError, match="pip install sentencepiece protobuf"):
        load_tokenizer(Tokenizer, tmp_path)
