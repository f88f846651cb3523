"""How many frames a model takes, from its files alone: what the opened model says too."""

from __future__ import annotations

import pytest

from sds3d.config import PriorConfig
from sds3d.priors.folder import check_folder
from sds3d.priors.source import Source, check_prior
from sds3d.priors.video.lengths import rule_of
from sds3d.priors.video.open import open_video_prior


@pytest.mark.parametrize("name", ["unet3d", "animatediff", "stacked", "svd", "wan", "cogvideox", "ltx"])
def test_the_rule_of_the_files_is_that_of_the_opened_model(name: str, video_folder, video_settings) -> None:
    folder = video_folder(name)
    model = Source(name=name, path=folder, family="video", licence="", revision="", folder=check_folder(folder))
    rule = rule_of(model)
    assert rule is not None
    opened = open_video_prior(folder, settings=video_settings[name]).frame_rule
    assert [rule.allows(n) for n in range(1, 70)] == [opened.allows(n) for n in range(1, 70)]


def test_pictures_have_no_rule() -> None:
    assert rule_of(check_prior(PriorConfig())) is None
