"""The shipped video prior: whole, small, and it knows words of motion and the order of frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from sds3d.cameras import orbit
from sds3d.config.shipped import shipped
from sds3d.doctor import wrong_checksums
from sds3d.priors.base import Query
from sds3d.priors.open import open_prior
from sds3d.priors.video.stacked import StackedFramesPrior
from sds3d.toybox.captions import Description
from sds3d.toybox.clips import ClipDescription, clip_phrase, composite, render_clip
from sds3d.toybox.posing import Manner

FOLDER = shipped("assets", "priors", "toybox-motion")
VIEW = (50.0, 15.0, 2.5)
CASES = (("robot", "hop", "walk"), ("snowman", "rock", "hop"), ("car", "drive", ""), ("tree", "sway", ""))
"""Noun, its motion, and another that is told instead."""


def test_it_is_whole_and_below_fifteen_megabytes() -> None:
    assert not wrong_checksums(FOLDER) and (FOLDER / "SHA256SUMS").is_file()
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) < 15e6
    prior = open_prior("toybox-motion")
    assert (
        isinstance(prior, StackedFramesPrior) and prior.frames == 8 and prior.has_camera and prior.balance is not None
    )


@pytest.mark.slow
@torch.no_grad()
def test_a_wrong_motion_and_shuffled_frames_cost_more() -> None:
    """Noise is told best with the right word and frames in order, at a level where motion is decided."""
    prior = open_prior("toybox-motion")
    assert isinstance(prior, StackedFramesPrior)
    clips, right, wrong = [], [], []
    for noun, motion, other in CASES:
        told = ClipDescription(what=Description(noun=noun, color="blue"), motion=motion, manner=Manner())
        clips.append(composite(render_clip(told, VIEW, 8, 64, np.random.default_rng(5)), 0.5))
        right.append(clip_phrase(told))
        wrong.append(clip_phrase(replace(told, motion=other)))
    z0 = prior.encode(torch.from_numpy(np.stack(clips)))
    t = torch.full((len(CASES),), 700)
    alpha, sigma = prior.alpha_sigma(t)
    camera = prior.camera_features(orbit(*(torch.full((len(CASES),), place) for place in VIEW), 45.0, 64, 64))
    noise = torch.randn(z0.shape, generator=torch.Generator().manual_seed(0))

    def error(texts: list[str], shown: Tensor) -> float:
        query = Query(z_t=alpha * shown + sigma * noise, t=t, text=prior.text(texts), camera=camera)
        return float((prior.predict([query])[0] - noise).square().mean())

    order = torch.tensor([0, 5, 2, 7, 4, 1, 6, 3])
    least = error(right, z0)
    assert least < 0.98 * error(wrong, z0) and least < 0.98 * error(right, z0[:, :, order])
