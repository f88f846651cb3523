"""The bundled video prior: it begins with the bundled UNet, its folder opens as a video model, training goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.config.prior import PriorConfig
from sds3d.config.shipped import shipped
from sds3d.priors.base import Query
from sds3d.priors.open import open_prior
from sds3d.priors.video.stacked import StackedFramesPrior, stacked
from sds3d.toybox.captions import vocabulary
from sds3d.toybox.clips import CLIP_RECORD, MOTION_NAMES, ClipConfig, clip_phrase, describe_clip, load_clips, make_clips
from sds3d.toybox.motion_networks import CHANNELS, FRAMES, kept, make_stacked_unet, make_tokenizer, thinned, trainable
from sds3d.toybox.motion_training import (
    LEARNED,
    ClipCorpus,
    MotionTrainingConfig,
    other_motion,
    train_motion,
    write_motion_prior,
)  # fmt: skip
from sds3d.toybox.motions import MOTIONS, motion_vocabulary, motions_of
from sds3d.toybox.networks import make_unet
from sds3d.toybox.tokenizer import write_tokenizer

PRIOR = shipped("assets", "priors", "toybox")
SMALL = ClipConfig(clips=4, frames=FRAMES, motions=("wave", "drive"), from_rest=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prior that was not trained, as the training writes it."""
    work = tmp_path_factory.mktemp("work")
    networks = trainable(PRIOR, len(make_tokenizer(work / "tokenizer")), seed=0)
    said = {"frame_scales": [2.5, *[0.3] * (FRAMES - 1)], "steps": 0}
    write_motion_prior(work / "toybox-motion", PRIOR, networks, work, MotionTrainingConfig(), said)
    return work / "toybox-motion"


def test_new_words_are_tokens_and_known_ones_keep_their_numbers(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    old, new = write_tokenizer(tmp_path / "old"), write_tokenizer(tmp_path / "new", motion_vocabulary())
    assert new > old
    before, after = (CLIPTokenizer.from_pretrained(tmp_path / name) for name in ("old", "new"))
    known = " ".join(word for word in vocabulary() if word.isalpha())
    assert before(known).input_ids[1:-1] == after(known).input_ids[1:-1]
    for word in (word for word in motion_vocabulary() if word.isalpha()):
        assert len(after(word).input_ids) == 3, word


@torch.no_grad()
def test_at_full_width_it_begins_as_the_picture_model_of_the_first_row() -> None:
    """Nothing is thinned then: for row 0 (the mean frame) it answers what the picture model does, for others nothing."""
    torch.manual_seed(0)
    pictures = make_unet(channels=(16, 32, 32))
    clips = make_stacked_unet(channels=(16, 32, 32), frames=3)
    clips.load_state_dict(thinned(pictures.state_dict(), clips, joined={}))
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(2, 4, 3, 16, 16, generator=generator)
    told = {
        "encoder_hidden_states": torch.randn(2, 5, 128, generator=generator),
        "class_labels": torch.randn(2, clips.config["projection_class_embeddings_input_dim"], generator=generator),
    }
    time = torch.tensor([100, 800])
    z[:, :, 1:] = 0
    found = clips.eval()(stacked(z), time, **told).sample
    wanted = pictures.eval()(z[:, :, 0], time, **told).sample
    torch.testing.assert_close(found[:, :4], wanted, atol=1e-5, rtol=1e-5)
    assert not found[:, 4:].any()


def test_thinning_keeps_every_so_many_channels_of_each_joined_set() -> None:
    assert kept(8, 6).tolist() == [0, 1, 2, 4, 5, 6] and kept(4, 4).tolist() == [0, 1, 2, 3]
    network = torch.nn.Linear(4 + 3, 2, bias=False)  # two sets: 6 thinned to 4, and 3 that stay
    wide = {"weight": torch.arange(2 * 9.0).reshape(2, 9)}
    columns = thinned(wide, network, joined={9: (6, 4)})["weight"][0].tolist()
    assert columns == [0, 1, 3, 4, 6, 7, 8]


def test_the_folder_opens_as_a_video_prior_and_stays_small(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 15e6
    prior = open_prior(PriorConfig(path=str(folder)))
    assert isinstance(prior, StackedFramesPrior)
    assert prior.size == (64, 64) and prior.frames == FRAMES and prior.parametrisation == "v_prediction"
    clip = torch.rand(1, FRAMES, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    pictures = open_prior("toybox")
    assert torch.allclose(prior.encode(clip)[0].transpose(0, 1), pictures.encode(clip[0]), atol=1e-5)
    z = torch.randn(1, 4, FRAMES, 16, 16, generator=torch.Generator().manual_seed(0))
    words = prior.text(["a robot waving", "a robot"])
    assert prior.balance is not None
    found = prior.predict([Query(z_t=z, t=torch.tensor([600]), text=row[None]) for row in words])
    assert found[0].shape == z.shape and (found[0] - found[1]).abs().max() > 1e-6  # "waving" is heard


def test_the_folder_says_what_it_knows(folder: Path) -> None:
    said = json.loads((folder / "sds3d.json").read_text())
    assert said["frames"] == FRAMES and set(said["motions"]) == set(LEARNED) <= set(MOTIONS)
    assert "waving" in said["words"] and (folder / "SHA256SUMS").is_file()


def test_what_is_saved_is_what_was_trained(folder: Path) -> None:
    networks = trainable(PRIOR, len(make_tokenizer(folder.parent / "again")), seed=0)
    prior = open_prior(PriorConfig(path=str(folder)))
    assert isinstance(prior, StackedFramesPrior) and tuple(prior.network.config["block_out_channels"]) == CHANNELS
    state = prior.network.state_dict()
    for name, value in networks["unet"].state_dict().items():
        assert torch.allclose(state[name], value, atol=1e-3, rtol=1e-3), name  # float16 on disk


def test_a_wrong_motion_is_another_that_suits_the_noun(tmp_path: Path) -> None:
    list(make_clips(tmp_path, replace(SMALL, clips=6, still_share=0.0, size=8), workers=0))
    _, records = load_clips(tmp_path, replace(SMALL, clips=6, still_share=0.0, size=8))
    for record in records:
        clip, wrong = describe_clip(record), other_motion(record)
        others = [MOTIONS[name].words for name in motions_of(clip.what.noun) if name in LEARNED]
        assert wrong != clip_phrase(clip) and clip.what.noun in wrong
        assert len(others) == 1 or any(wrong.endswith(words) for words in others)


def test_a_batch_has_the_frames_of_one_clip_side_by_side(folder: Path, tmp_path: Path) -> None:
    records = np.zeros(2, CLIP_RECORD)
    records["distance"], records["motion"] = 2.5, MOTION_NAMES.index("hop")
    latents = np.arange(2 * 2 * 3 * 4, dtype=np.float16).reshape(2, 2, 3, 4, 1, 1)
    corpus = ClipCorpus(latents, records, make_tokenizer(tmp_path))
    shown, tokens, cameras = corpus.batch(16, np.random.default_rng(0))
    assert shown.shape == (16, 4, 3, 1, 1) and len(tokens) == len(cameras) == 16
    rows = {tuple(row) for row in latents.reshape(4, 12).tolist()}
    assert {
        tuple(row) for row in stacked(shown).flatten(1).tolist()
    } == rows  # every clip on either background, in order
    frames = latents.astype(np.float64)[..., 0, 0]  # [2, 2, F, C]
    mean_frame = np.sqrt(np.square(frames.mean(axis=2) * np.sqrt(3)).mean())
    assert float(corpus.scales()[0]) == pytest.approx(mean_frame, rel=5e-3)


@pytest.mark.slow
def test_training_moves_the_networks_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    config = MotionTrainingConfig(train=SMALL, validation=SMALL, steps=4, batch=8)
    out = tmp_path / "out" / "toybox-motion"
    begun = trainable(PRIOR, len(make_tokenizer(tmp_path / "words")), seed=0)
    networks = train_motion(out, PRIOR, tmp_path / "work", config)
    assert not torch.equal(networks["unet"].conv_in.weight, begun["unet"].conv_in.weight)
    again = train_motion(out, PRIOR, tmp_path / "work", config)  # nothing left to do
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), again.parameters(), strict=True))
    assert open_prior(PriorConfig(path=str(out))).text(["a robot waving"]).shape[0] == 1
