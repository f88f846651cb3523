"""Residual rules: the linear algebra (T4, T12b, T25) and the reconstruction residual (T6)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.guidance.branches import BASELINE, NEGATIVE, PROMPTED, UNPROMPTED, Branch, Evidence
from sds3d.guidance.methods import METHODS
from sds3d.guidance.recon import rescaled_clean
from sds3d.guidance.rules import Linear, Reconstruction, Staged
from sds3d.guidance.weights import recon, sds, uniform
from sds3d.priors.parametrisation import epsilon_to_clean
from sds3d.schedule import Schedule

SCALE = Schedule.constant(7.5)
SDS = Linear({PROMPTED: SCALE, BASELINE: 1.0 - SCALE, "eps": -1.0})


def test_sds_row_is_the_guided_prediction_minus_the_noise(make_evidence) -> None:
    evidence: Evidence = make_evidence()
    y, u = evidence.predictions[PROMPTED], evidence.predictions[BASELINE]
    torch.testing.assert_close(SDS(evidence), u + 7.5 * (y - u) - evidence.epsilon, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(evidence.guided(), u + 7.5 * (y - u))


def test_coefficients_may_be_numbers_schedules_or_functions(make_evidence) -> None:
    evidence: Evidence = make_evidence(t=[100, 300, 500, 700], step=25)
    ramp = Schedule.model_validate({"clock": "fraction", "points": [[0, 0], [0.5, 4]]})
    late = Linear({PROMPTED: ramp, BASELINE: lambda e: (e.here.t > 400).float()[:, None, None, None]})
    y, u = evidence.predictions[PROMPTED], evidence.predictions[BASELINE]
    expected = 2.0 * y
    expected[2:] += u[2:]
    torch.testing.assert_close(late(evidence), expected)


def test_rules_add_and_constant_zeros_are_not_evaluated(make_evidence) -> None:
    evidence: Evidence = make_evidence(branches=(PROMPTED, BASELINE, NEGATIVE))
    first = Linear({PROMPTED: 2.0, BASELINE: -2.0})
    second = Linear({PROMPTED: 1.0, NEGATIVE: -1.0})
    torch.testing.assert_close((first + second)(evidence), first(evidence) + second(evidence))
    assert (first + second).needs == (PROMPTED, BASELINE, NEGATIVE)
    unguided = Schedule.constant(1.0)
    assert Linear({PROMPTED: unguided, BASELINE: 1.0 - unguided, "eps": -1.0}).needs == (PROMPTED,)
    assert (Linear({})(evidence) == 0).all()


def test_sjc_is_sds_with_uniform_weight(make_evidence) -> None:
    """T4: the variance-exploding form of SJC, written out, is the SDS row; without variance reduction it adds eps."""
    evidence: Evidence = make_evidence()
    here, level = evidence.here, evidence.here.sigma / evidence.here.alpha
    exploded = evidence.z0 + level * evidence.epsilon
    torch.testing.assert_close(exploded / (1 + level**2).sqrt(), here.z, atol=1e-5, rtol=1e-5)
    denoised = exploded - level * evidence.guided()
    reduced = (evidence.z0 - denoised) / level
    ours = uniform(evidence) * SDS(evidence)
    torch.testing.assert_close(reduced, ours, atol=3e-4, rtol=1e-4)
    without = Linear({PROMPTED: SCALE, BASELINE: 1.0 - SCALE})
    torch.testing.assert_close((exploded - denoised) / level, without(evidence), atol=3e-4, rtol=1e-4)
    torch.testing.assert_close(without(evidence) - SDS(evidence), evidence.epsilon, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if isinstance(m.rule(m.config()), Linear)])
def test_linear_methods_are_blind_to_a_shift_of_all_predictions(name: str, make_evidence) -> None:
    """T25: coefficients sum to zero, and adding one field to noise and predictions leaves the residual alone."""
    rule = METHODS[name].rule(METHODS[name].config())
    evidence: Evidence = make_evidence(branches=rule.needs, t=[250, 400, 600, 800], step=25)
    assert torch.as_tensor(rule.coefficient_sum(evidence)).abs().max() < 1e-4
    field = torch.randn(4, 6, 6, generator=torch.Generator().manual_seed(9))
    moved = replace(
        evidence,
        epsilon=evidence.epsilon + field,
        predictions={branch: p + field for branch, p in evidence.predictions.items()},
    )
    torch.testing.assert_close(rule(moved), rule(evidence), atol=2e-4, rtol=1e-4)


def test_nfsd_is_not_blind_at_small_times_on_purpose(make_evidence) -> None:
    """T12b: below t = 200 of 1000 the empty prediction stays; the switch is by sample, the edge belongs to the upper part."""
    rule = METHODS["nfsd"].rule(METHODS["nfsd"].config())
    evidence: Evidence = make_evidence(branches=rule.needs, t=[100, 199, 200, 700])
    assert torch.as_tensor(rule.coefficient_sum(evidence)).flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    y, null, n = (evidence.predictions[branch] for branch in (PROMPTED, UNPROMPTED, NEGATIVE))
    late = 7.5 * (y - null) + null
    expected = torch.cat([late[:2], (late - n)[2:]])
    torch.testing.assert_close(rule(evidence), expected, atol=1e-4, rtol=1e-4)


def test_sjc_without_variance_reduction_is_not_blind_either(make_evidence) -> None:
    rule = METHODS["sjc"].rule(METHODS["sjc"].config(variance_reduction=False))
    assert rule.coefficient_sum(make_evidence()) == pytest.approx(1.0)


def test_a_schedule_that_is_zero_switches_its_branch_off(make_evidence) -> None:
    ramp = Schedule.model_validate({"clock": "fraction", "points": [[0, 0], [0.5, 1]]})
    rule = Linear({PROMPTED: 1.0, NEGATIVE: ramp})
    assert rule.wanted(0, 100) == (PROMPTED,) and rule.wanted(1, 100) == (PROMPTED, NEGATIVE) == rule.needs
    evidence: Evidence = make_evidence(branches=(PROMPTED,))
    assert torch.equal(rule(evidence), evidence.predictions[PROMPTED])


def test_staged_rules_take_turns(make_evidence) -> None:
    rule = Staged(Linear({PROMPTED: 1.0}), Linear({BASELINE: 2.0}), 0.25)
    assert rule.needs == (PROMPTED, BASELINE)
    assert rule.wanted(24, 100) == (PROMPTED,) and rule.wanted(25, 100) == (BASELINE,)
    early, late = make_evidence(step=24), make_evidence(step=25)
    assert torch.equal(rule(early), early.predictions[PROMPTED])
    assert torch.equal(rule(late), 2.0 * late.predictions[BASELINE])
    assert Staged(Linear({PROMPTED: 1.0}), Linear({BASELINE: 2.0}), 0.0).needs == (BASELINE,)


def test_a_rule_that_is_not_blind_is_noticed(make_evidence) -> None:
    assert Linear({PROMPTED: 1.0}).coefficient_sum(make_evidence()) == 1.0


def test_branches_print_what_they_are() -> None:
    assert str(PROMPTED) == "y" and str(UNPROMPTED) == "0"
    assert str(Branch("plain", network="psi", point="s", camera=False)) == "psi:plain@s-camera"


# --- T6: the reconstruction residual ------------------------------------------------------------------------------


def reconstruction(share: float, group: int = 0, scale: float = 7.5) -> Reconstruction:
    return Reconstruction(Schedule.constant(scale), Schedule.constant(share), group)


def test_recon_without_rescaling_is_sds_weighted_by_sigma_over_alpha(make_evidence) -> None:
    evidence: Evidence = make_evidence()
    gradient = recon(evidence) * reconstruction(0.0)(evidence)
    torch.testing.assert_close(gradient, recon(evidence) * SDS(evidence), atol=2e-4, rtol=1e-4)
    clean = epsilon_to_clean(evidence.guided(), evidence.here.z, evidence.here.alpha, evidence.here.sigma)
    torch.testing.assert_close(gradient, evidence.z0 - clean, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(gradient, sds(evidence) * SDS(evidence), atol=1e-2)


@pytest.mark.parametrize(("group", "size"), [(0, 4), (4, 4), (2, 2), (1, 1)])
def test_full_rescaling_gives_each_group_the_spread_of_the_unguided_estimate(
    group: int, size: int, make_evidence
) -> None:
    evidence: Evidence = make_evidence(t=[500] * 4)
    y, here = evidence.predictions[PROMPTED], evidence.here
    rescaled = rescaled_clean(evidence.guided(), y, here, 1.0, group)
    plain = epsilon_to_clean(y, here.z, here.alpha, here.sigma)
    guided = epsilon_to_clean(evidence.guided(), here.z, here.alpha, here.sigma)
    for start in range(0, 4, size):
        views = slice(start, start + size)
        assert rescaled[views].std() == pytest.approx(plain[views].std().item(), rel=1e-5)
        ratio = (rescaled[views] / guided[views]).flatten()
        torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), atol=0, rtol=1e-4)
    if size < 4:
        assert (rescaled[:size] / guided[:size]).mean() != pytest.approx(
            (rescaled[size:] / guided[size:]).mean().item(), rel=1e-3
        )


def test_rescaling_is_linear_in_its_share(make_evidence) -> None:
    evidence: Evidence = make_evidence(t=[500] * 4)
    none, half, full = (reconstruction(share)(evidence) for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, 0.5 * (none + full), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(none, full, atol=1e-2)


def test_permuting_groups_permutes_the_residual(make_evidence) -> None:
    """T7: groups do not see each other."""
    evidence: Evidence = make_evidence(t=[500] * 4)
    order = torch.tensor([2, 3, 0, 1])
    here = evidence.here
    moved = replace(
        evidence,
        z0=evidence.z0[order],
        points={"t": type(here)(here.z[order], here.t[order], here.alpha[order], here.sigma[order])},
        predictions={branch: value[order] for branch, value in evidence.predictions.items()},
    )
    rule = reconstruction(0.7, group=2)
    torch.testing.assert_close(rule(moved), rule(evidence)[order])
    assert not torch.allclose(reconstruction(0.7, group=4)(evidence), rule(evidence), atol=1e-3)


def test_groups_must_fit_the_batch(make_evidence) -> None:
    with pytest.raises(ShapeError, match=r"a multiple of guidance\.group = 3"):
        reconstruction(0.5, group=3)(make_evidence(t=[500] * 4))
