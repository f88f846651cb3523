"""The judge's verdict: for which prompts, and how shares are counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from renderers.gaussians import initialise
from renderers.gaussians.renderer import GaussianRenderer
from sds3d.metrics import silhouette
from sds3d.toybox import judge
from sds3d.toybox.palette import COLORS, NOUNS
from systems.metrics import verdict, words_of


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a red mug", ("mug", "red")),
        ("A photo of a tall, striped BLUE car on a base.", ("car", "blue")),
        ("a red mug beside a red mug", ("mug", "red")),
        ("a red mug on a table", None),
        ("a red and white mug", None),
        ("a mug", None),
        ("a crimson mug", None),
        ("a redmug", None),
    ],
)
def test_words_of(prompt: str, words: tuple[str, str] | None) -> None:
    assert words_of(prompt) == words


class FixedJudge:
    """Says "mug" in six of eight views, "red" in four, and turns by 40 degrees in the first half, by 50 in the rest."""

    def __init__(self) -> None:
        self.images: Tensor | None = None

    def verdict(self, images: Tensor) -> dict[str, Tensor]:
        self.images = images
        mug, car, red, blue = (
            NOUNS.index("mug"),
            NOUNS.index("car"),
            list(COLORS).index("red"),
            list(COLORS).index("blue"),
        )
        turned = torch.tensor([40.0] * 4 + [50.0] * 4)
        return {
            "noun": torch.tensor([mug] * 6 + [car] * 2),
            "color": torch.tensor([red, blue] * 4),
            "azimuth_deg": torch.arange(8) * 45.0 + turned - 720.0,
        }


@pytest.fixture
def renderer() -> GaussianRenderer:
    return GaussianRenderer(initialise.ball(30, 0.5, torch.Generator().manual_seed(0), opacity=0.9))


@pytest.fixture
def fixed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FixedJudge:
    (tmp_path / "judge.safetensors").touch()
    fixed = FixedJudge()
    monkeypatch.setattr(judge, "default_judge", lambda: tmp_path)
    monkeypatch.setattr(judge, "load_judge", lambda **_: fixed)
    return fixed


@pytest.fixture(autouse=True)
def outlines(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the silhouette test, which draws hundreds of objects; keeps what it was asked."""
    asked: list[Any] = []
    monkeypatch.setattr(silhouette, "silhouette_rank", lambda alpha, noun: asked.append((alpha, noun)) or (3, 0.25))
    return asked


def test_shares_are_counted_over_views(renderer: GaussianRenderer, fixed: FixedJudge, outlines: list[Any]) -> None:
    said = verdict(renderer, "a red mug")
    assert (said["noun"], said["color"], said["views"]) == ("mug", "red", 8)
    assert (said["noun_accuracy"], said["color_accuracy"], said["azimuth_within_45"]) == (0.75, 0.5, 0.5)
    assert said["said_nouns"] == ["mug"] * 6 + ["car"] * 2
    assert (said["silhouette_rank"], said["silhouette_iou"]) == (3, 0.25) and "skipped" not in said
    assert fixed.images is not None and fixed.images.shape == (8, 64, 64, 3)
    torch.testing.assert_close(fixed.images[:, 0, 0], torch.full((8, 3), 0.5))  # mid-grey corners
    alpha, noun = outlines[0]
    assert alpha.shape == (8, 64, 64) and noun == "mug" and alpha.max() > 0.5 > alpha.min()


def test_azimuth_is_not_asked_of_symmetric_nouns(renderer: GaussianRenderer, fixed: FixedJudge) -> None:
    assert verdict(renderer, "a red apple")["azimuth_within_45"] is None


def test_without_a_judge_the_outline_still_counts(
    renderer: GaussianRenderer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(judge, "default_judge", lambda: tmp_path / "none")
    said = verdict(renderer, "a red mug")
    assert said["silhouette_rank"] == 3 and "not installed" in said["skipped"] and "noun_accuracy" not in said


def test_other_prompts_are_skipped(renderer: GaussianRenderer) -> None:
    assert list(verdict(renderer, "a lighthouse")) == ["skipped"]
