"""A rule in which the trained network is guided: the formula, and what it asks for."""

from __future__ import annotations

import pytest
import torch

from sds3d.generators.fake import GuidedFake, drawn_scale
from sds3d.guidance.branches import BASELINE, PROMPTED, SCORE, Branch, Evidence, Point
from sds3d.guidance.methods import METHODS
from sds3d.schedule import Schedule

BARE = Branch("0", network="psi")


def vsd_with(scale: Schedule) -> GuidedFake:
    row = METHODS["vsd"]
    return GuidedFake(row.rule(row.config.model_validate({"method": "vsd", "guidance_scale": 3})), scale)


def evidence(step: int) -> Evidence:
    draws = torch.Generator().manual_seed(0)
    predictions = {b: torch.randn(2, 4, 8, 8, generator=draws) for b in (PROMPTED, BASELINE, SCORE, BARE)}
    one = torch.ones(2, 1, 1, 1)
    point = Point(predictions[SCORE], torch.zeros(2, dtype=torch.long), 0.8 * one, 0.6 * one)
    return Evidence(
        z0=point.z, epsilon=point.z, points={"t": point}, predictions=predictions, step=step, total_steps=4, guidance_scale=3.0
    )  # fmt: skip


def test_the_trained_network_is_guided_inside_the_rule() -> None:
    rising = Schedule(clock="step", points=((0.0, 1.0), (2.0, 5.0)))
    rule = vsd_with(rising)
    for step, scale in ((0, 1.0), (1, 3.0), (3, 5.0)):
        seen = evidence(step)
        y, u, score, bare = (seen.predictions[branch] for branch in (PROMPTED, BASELINE, SCORE, BARE))
        wanted = u + 3.0 * (y - u) - (bare + scale * (score - bare))
        torch.testing.assert_close(rule(seen), wanted)
        assert torch.equal(seen.predictions[SCORE], score)  # the evidence, which weights read too, is left alone


def test_nothing_is_asked_for_in_vain() -> None:
    plain, guided = vsd_with(Schedule.constant(1.0)), vsd_with(Schedule.constant(2.0))
    assert set(plain.wanted(0, 4)) == {PROMPTED, BASELINE, SCORE}
    assert set(guided.wanted(0, 4)) == set(guided.needs) == {PROMPTED, BASELINE, SCORE, BARE}


def test_drawn_scales_fill_their_range_evenly() -> None:
    drawn = drawn_scale(2.0, 6.0, 4000, torch.Generator().manual_seed(0))
    values = torch.tensor([drawn.at(step, 4000) for step in range(4000)])
    counts = torch.histc(values, 4, 2.0, 6.0)
    assert counts.sum() == 4000 and counts.min() > 900
    assert float(values.std()) == pytest.approx(4.0 / 12**0.5, rel=0.03)
