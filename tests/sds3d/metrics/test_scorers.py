import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.errors import AssetError, ConfigError
from sds3d.metrics import scorers
from sds3d.metrics.scorers import ClipScorer, JudgeScorer, RewardScorer, open_scorer
from sds3d.toybox.judge import Judge
from sds3d.toybox.palette import COLORS, NOUNS


class Certain(Judge):
    """A judge that is sure of a noun and halves the colour between two."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        noun, color = torch.zeros(len(images), len(NOUNS)), torch.full((len(images), len(COLORS)), -99.0)
        noun[:, NOUNS.index("mug")] = 99.0
        color[:, :2] = 0.0
        return noun, color, torch.zeros(len(images), 16)


def test_the_judge_multiplies_noun_and_colour() -> None:
    scorer = JudgeScorer(Certain())
    first, second, third = list(COLORS)[:3]
    table = scorer.table(
        torch.zeros(2, 64, 64, 3), [f"a {first} mug", f"a {second} mug", f"a {third} mug", f"a {first} dog"]
    )
    assert table == pytest.approx(np.array([[0.5, 0.5, 0.0, 0.0]] * 2), abs=1e-6)
    assert scorer.points(table)[0, 0] == pytest.approx(50.0)


def test_the_judge_refuses_other_prompts() -> None:
    scorer = JudgeScorer(Certain())
    assert scorer.refusal("a red mug") == "" and "exactly one noun" in scorer.refusal("a corgi taking a selfie")
    with pytest.raises(ConfigError, match=r"cannot rate 'a corgi'.*--scorer clip"):
        scorer.table(torch.zeros(1, 64, 64, 3), ["a corgi"])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model of random weights with a vocabulary of single letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(code) for code in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    CLIPTokenizer(vocab={word: n for n, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = CLIPTextConfig(vocab_size=len(words), max_position_embeddings=20, bos_token_id=0, eos_token_id=1, **small)
    vision = CLIPVisionConfig(image_size=32, patch_size=8, **small)
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)).save_pretrained(
        folder
    )
    return folder


def test_clip_gives_the_cosines_of_the_model(clip_folder: Path) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    scorer = open_scorer("clip", str(clip_folder))
    assert isinstance(scorer, ClipScorer) and scorer.size == 32
    images = torch.rand(3, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    prompts = ["a mug", "a dog", "an overlong text " * 9]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizer.from_pretrained(clip_folder)
    pixels = images.permute(0, 3, 1, 2) - torch.tensor(scorers.CLIP_MEAN).view(3, 1, 1)
    words = tokenizer(prompts, padding="max_length", max_length=20, truncation=True, return_tensors="pt")
    with torch.no_grad():
        whole = model(pixel_values=pixels / torch.tensor(scorers.CLIP_STD).view(3, 1, 1), **words)
    expected = (
        whole.logits_per_image / model.logit_scale.exp()
    )  # cosines times the temperature, as CLIP itself has them
    assert scorer.table(images, prompts) == pytest.approx(expected.detach().numpy(), abs=1e-5)


def test_a_folder_that_is_no_clip(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"is no CLIP model that can be read.*model\.safetensors"):
        open_scorer("clip", str(tmp_path))


def test_what_is_not_here_is_refused_politely(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"'clip' cannot be used: CLIP is not on this machine.*--clip a folder.*judge"
    ):
        open_scorer("clip")
    with pytest.raises(ConfigError, match=r"'imagereward' cannot be used: ImageReward is not installed"):
        open_scorer("imagereward")
    with pytest.raises(ConfigError, match=r"no scorer 'jugde'. Choose 'judge'"):
        open_scorer("jugde")


def test_imagereward_is_called_with_local_files_and_mapped_as_t3bench_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls = []

    class Model:
        def score(self, prompt: str, picture: object) -> float:
            return 1.5 if "mug" in prompt else -0.5

    def load(name: str, device: str, med_config: str) -> Model:
        calls.append((name, device, med_config))
        return Model()

    monkeypatch.setitem(sys.modules, "ImageReward", types.SimpleNamespace(load=load, __spec__=object()))
    monkeypatch.setattr(scorers, "REWARD_FOLDER", str(tmp_path))
    assert "lacks ImageReward.pt and med_config.json" in scorers.missing_reward()
    for name in scorers.REWARD_FILES:
        (tmp_path / name).touch()
    scorer = open_scorer("imagereward")
    assert isinstance(scorer, RewardScorer)
    assert calls == [(str(tmp_path / "ImageReward.pt"), "cpu", str(tmp_path / "med_config.json"))]
    ratings = scorer.table(torch.zeros(2, 8, 8, 3), ["a red mug", "a dog"])
    assert scorer.points(ratings).tolist() == [[80.0, 40.0]] * 2
