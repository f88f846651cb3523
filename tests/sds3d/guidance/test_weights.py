"""Weights against the table of formulas."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from sds3d.guidance.branches import PROMPTED
from sds3d.guidance.config import WeightName
from sds3d.guidance.weights import WEIGHTS


def test_every_configurable_weight_exists() -> None:
    assert set(WEIGHTS) == set(get_args(WeightName))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("sds", lambda a, s: s**2),
        ("uniform", lambda a, s: torch.ones_like(s)),
        ("fantasia3d", lambda a, s: a * s**2),
        ("recon", lambda a, s: s / a),
        ("bsd", lambda a, s: a),
        ("kl", lambda a, s: a / s),
        ("velocity", lambda a, s: 1 / a),
    ],
)
def test_weights_of_time(name: WeightName, formula, make_evidence) -> None:
    evidence = make_evidence(t=[20, 354, 500, 980])
    weight = WEIGHTS[name](evidence)
    assert weight.shape == (4, 1, 1, 1) and weight.dtype == torch.float32
    torch.testing.assert_close(weight, formula(evidence.here.alpha, evidence.here.sigma))
    if name == "recon":
        assert weight[3].item() == pytest.approx(13.0, abs=0.1)


def test_dmd_weight_divides_by_the_error_of_each_sample(make_evidence) -> None:
    evidence = make_evidence()
    here = evidence.here
    error = ((here.sigma / here.alpha) * (evidence.guided() - evidence.epsilon)).abs().flatten(1).mean(1)
    expected = (here.sigma / here.alpha).flatten() / (error + 0.1)
    torch.testing.assert_close(WEIGHTS["dmd"](evidence).flatten(), expected, rtol=1e-4, atol=1e-4)
    unguided = make_evidence(branches=(PROMPTED,))
    assert torch.equal(unguided.guided(), unguided.predictions[PROMPTED])


def test_the_random_weight_is_a_sigmoid_of_a_normal_draw_by_sample(make_evidence) -> None:
    evidence = make_evidence()
    plain = WEIGHTS["velocity"](evidence).flatten()
    drawn = type(evidence)(**{**vars(evidence), "uniform": torch.tensor([0.5, 0.8413447, 0.1586553, 0.0])})
    found = WEIGHTS["velocity-random"](drawn).flatten() / plain
    expected = torch.tensor([0.0, 1.0, -1.0]).sigmoid()
    torch.testing.assert_close(found[:3], expected, atol=1e-5, rtol=1e-5)
    assert 0 < found[3] < 0.02 and torch.equal(WEIGHTS["velocity-random"](evidence).flatten(), plain)
