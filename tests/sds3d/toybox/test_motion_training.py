"""The motion adapter of the bundled prior: untrained it changes nothing; its folder opens like any adapter's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from sds3d.cameras import turntable
from sds3d.config.prior import PriorConfig
from sds3d.config.shipped import shipped
from sds3d.errors import ConfigError
from sds3d.priors.base import Query
from sds3d.priors.open import open_prior
from sds3d.priors.video.unets import AnimateDiffPrior
from sds3d.toybox.captions import vocabulary
from sds3d.toybox.motion_networks import FRAMES, make_tokenizer, trainable
from sds3d.toybox.motion_training import LEARNED, MotionTrainingConfig, train_motion, write_adapter
from sds3d.toybox.motions import MOTIONS, motion_vocabulary
from sds3d.toybox.tokenizer import write_tokenizer

PRIOR = shipped("assets", "priors", "toybox")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained adapter as the training writes it."""
    work = tmp_path_factory.mktemp("work")
    networks = trainable(PRIOR, len(make_tokenizer(work / "tokenizer")), seed=0)
    write_adapter(work / "toybox-motion", networks, work, MotionTrainingConfig(), {"steps": 0})
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


def test_an_untrained_adapter_predicts_what_the_bundled_prior_predicts_of_each_frame(adapter: Path) -> None:
    assert sum(file.stat().st_size for file in adapter.rglob("*")) < 15e6
    prior, pictures = open_prior(PriorConfig(path=str(adapter))), open_prior("toybox")
    assert isinstance(prior, AnimateDiffPrior)
    assert prior.size == (64, 64) and prior.frames == FRAMES and prior.frame_rule.most == FRAMES
    cameras, frames = turntable(1, 64), 2
    z = torch.randn(1, 4, frames, 16, 16, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([600])
    asked = Query(z_t=z, t=t, text=prior.text(["a red robot"]), camera=prior.camera_features(cameras))
    found = prior.predict([asked])[0]
    alone = Query(
        z_t=z[0].transpose(0, 1),
        t=t.expand(frames),
        text=pictures.text(["a red robot"]).expand(frames, -1, -1),
        camera=pictures.camera_features(cameras).expand(frames, -1),  # type: ignore[union-attr]
    )
    assert (found[0].transpose(0, 1) - pictures.predict([alone])[0]).abs().max() < 2e-4
    hidden = Query(z_t=z, t=t, text=asked.text)
    assert (prior.predict([hidden])[0] - found).abs().max() > 1e-3  # it listens to the camera
    clip = torch.rand(1, frames, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    flat = pictures.encode(clip[0])
    assert torch.allclose(prior.encode(clip)[0].transpose(0, 1), flat, atol=1e-5)
    with pytest.raises(ConfigError, match=r"clip has 9 frames.*from 2 to 8"):
        prior.check_clip(torch.zeros(1, 9, 8, 8, 3))


def test_the_folder_says_what_it_knows(adapter: Path) -> None:
    said = json.loads((adapter / "sds3d.json").read_text())
    assert said["base"] == "toybox" and set(said["motions"]) == set(LEARNED) <= set(MOTIONS)
    assert "waving" in said["words"] and (adapter / "SHA256SUMS").is_file()


@pytest.mark.slow
def test_training_moves_the_adapter_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    from sds3d.toybox.clips import ClipConfig

    small = ClipConfig(clips=4, frames=3, motions=("wave", "drive"), from_rest=True)
    config = MotionTrainingConfig(train=small, validation=small, steps=4, batch=1)
    out = tmp_path / "out" / "toybox-motion"
    networks = train_motion(out, PRIOR, tmp_path / "work", config)
    moved = [float(p.abs().max()) for name, p in networks["adapter"].named_parameters() if "proj_out" in name]
    assert np.max(moved) > 0
    again = train_motion(out, PRIOR, tmp_path / "work", config)  # nothing left to do
    assert all(torch.equal(a, b) for a, b in zip(networks.parameters(), again.parameters(), strict=True))
    assert open_prior(PriorConfig(path=str(out))).text(["a robot waving"]).shape[0] == 1
