"""Prompts: which words hold from where, and the roles of texts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from sds3d.errors import ConfigError
from sds3d.prompts import VIEWS, Prompt, ViewWords


def oracle(azimuth: float, elevation: float, front: float, back: float, overhead: float) -> str:
    """The table of threestudio, written as a chain of questions."""
    wrapped = (azimuth + 180.0) % 360.0 - 180.0
    if elevation > overhead:
        return "overhead"
    if wrapped > 180.0 - back or wrapped < -180.0 + back:
        return "back"
    return "front" if -front < wrapped < front else "side"


@pytest.mark.parametrize("limits", [(45.0, 45.0, 60.0), (30.0, 30.0, 60.0), (120.0, 100.0, 20.0)])
def test_views_match_the_oracle_at_any_turn(limits: tuple[float, float, float]) -> None:
    words = ViewWords(front_deg=limits[0], back_deg=limits[1], overhead_deg=limits[2])
    azimuth = torch.arange(-720.0, 720.0, 7.5).repeat(4)
    elevation = torch.tensor([-10.0, 30.0, 59.0, 75.0]).repeat_interleave(len(azimuth) // 4)
    expected = [oracle(a, e, *limits) for a, e in zip(azimuth.tolist(), elevation.tolist(), strict=True)]
    assert words.names_of(azimuth, elevation) == expected


def test_later_views_override_earlier_ones() -> None:
    words = ViewWords(front_deg=120, back_deg=120)
    assert words.names_of(torch.tensor([0.0, 100.0, 180.0, 0.0]), torch.tensor([0.0, 0.0, 0.0, 80.0])) == [
        "front",
        "back",
        "back",
        "overhead",
    ]


def test_texts_and_index_belong_together() -> None:
    prompt = Prompt(text="a red mug")
    assert prompt.texts() == tuple(f"a red mug, {view} view" for view in VIEWS)
    azimuth, elevation = torch.tensor([0.0, 90.0, 180.0, 5.0]), torch.tensor([0.0, 0.0, 0.0, 70.0])
    index = prompt.index(azimuth, elevation)
    assert index.dtype == torch.int64
    chosen = [prompt.texts()[i].split(", ")[1] for i in index.tolist()]
    assert chosen == ["front view", "side view", "back view", "overhead view"]


def test_prefix_style_and_own_templates() -> None:
    assert ViewWords(style="prefix").text("a cat", "back") == "backside view of a cat"
    words = ViewWords(templates={"overhead": "{text}, top view", "back": "the tail of a {cat}"})
    assert words.text("a cat", "overhead") == "a cat, top view"
    assert words.text("a cat", "back") == "the tail of a {cat}"
    assert words.text("a {text}", "front") == "a {text}, front view", "braces in a prompt are not templates"
    with pytest.raises(ValidationError, match="template of view 'side' is empty"):
        ViewWords(templates={"side": " "})
    with pytest.raises(ValidationError, match="'side', 'front', 'back' or 'overhead'"):
        ViewWords.model_validate({"templates": {"top": "{text}"}})


def test_roles_of_text() -> None:
    plain = Prompt(text="a red mug", view_dependent=False)
    assert [plain.texts(role) for role in ("y", "plain", "u", "0")] == [("a red mug",), ("a red mug",), ("",), ("",)]
    negative = Prompt(text="a red mug", negative="blurry")
    assert negative.texts("u") == negative.texts("n") == ("blurry",) and negative.texts("0") == ("",)
    assert negative.texts("plain") == ("a red mug",) and len(negative.texts("y")) == 4
    assert plain.index(torch.tensor([0.0, 180.0]), torch.zeros(2)).tolist() == [0, 0]
    assert negative.index(torch.tensor([0.0, 180.0]), torch.zeros(2), "u").tolist() == [0, 0]


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r'The prompt is empty: got .*for example "a red mug"'):
        Prompt(text=text)


def test_views_work_without_values() -> None:
    meta = torch.zeros(3, device="meta")
    assert Prompt(text="a cat").index(meta, meta).shape == (3,)


def test_configuration_needs_no_torch() -> None:
    code = (
        "import sys, sds3d.prompts, sds3d.schedule, sds3d.guidance.methods; "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
