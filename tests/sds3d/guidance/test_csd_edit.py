"""Classifier score distillation for editing: written out, and its relations to CSD and DDS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from sds3d.guidance.branches import BASELINE, PROMPTED, UNPROMPTED, Branch
from sds3d.guidance.methods import METHODS
from sds3d.schedule import Schedule

SOURCE = Branch("src")
BRANCHES = (PROMPTED, BASELINE, UNPROMPTED, SOURCE)
Make = Callable[..., Any]


def residual(name: str, evidence: Any, **settings: Any) -> Tensor:
    row = METHODS[name]
    return row.rule(row.config.model_validate(settings))(evidence)


def test_it_is_what_it_says(make_evidence: Make) -> None:
    evidence = make_evidence(branches=BRANCHES)
    y, empty, src = (evidence.predictions[branch] for branch in (PROMPTED, UNPROMPTED, SOURCE))
    expected = 1.5 * (y - empty) - 0.25 * (src - empty)
    torch.testing.assert_close(residual("csd-edit", evidence, towards=1.5, away=0.25), expected, atol=1e-5, rtol=1e-5)


def test_without_an_old_text_it_is_csd(make_evidence: Make) -> None:
    evidence = make_evidence(branches=(*BRANCHES, Branch("n")))
    torch.testing.assert_close(residual("csd-edit", evidence, away=0), residual("csd", evidence, negative=0))


def test_equal_texts_and_factors_change_nothing(make_evidence: Make) -> None:
    evidence = make_evidence(branches=BRANCHES)
    evidence.predictions[SOURCE] = evidence.predictions[PROMPTED]
    assert residual("csd-edit", evidence, towards=0.7, away=0.7).abs().max() < 1e-6


@pytest.mark.parametrize(("step", "away"), [(0, 0.0), (5, 0.5)])
def test_factors_may_follow_the_run(step: int, away: float, make_evidence: Make) -> None:
    falling = Schedule(clock="fraction", points=((0.0, 0.0), (1.0, 1.0)))
    evidence = make_evidence(branches=BRANCHES, step=step)
    wanted = residual("csd-edit", evidence, away=away * 10 / evidence.total_steps)
    torch.testing.assert_close(residual("csd-edit", evidence, away=falling), wanted, atol=1e-5, rtol=1e-5)
