"""Balanced score distillation (T17) and the projection of stable score distillation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sds3d.guidance.branches import BASELINE, PROMPTED, UNPROMPTED, Evidence
from sds3d.guidance.methods import METHODS
from sds3d.guidance.minnorm import shortest_between
from sds3d.guidance.project import Projection, without

Make = Callable[..., Evidence]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def dot(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(1)


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    """300 pairs of directions of very different lengths and angles."""
    first, second = draw(300, 2, 2, 2), draw(300, 2, 2, 2, seed=1)
    mixed = second + draw(300, 1, 1, 1, seed=2) * 2.0 * first
    return first * (0.2 + 3 * torch.rand(300, 1, 1, 1, generator=torch.Generator().manual_seed(3))), mixed


def test_no_point_of_the_segment_is_shorter(pairs: tuple[Tensor, Tensor]) -> None:
    c, d = (direction.double() for direction in pairs)
    found, share = shortest_between(c, d)
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None, None, None]
    for start in range(0, 300, 50):
        rows = slice(start, start + 50)
        lengths = (grid * c[None, rows] + (1 - grid) * d[None, rows]).flatten(2).norm(dim=2)
        best, at = lengths.min(dim=0)
        assert (found[rows].flatten(1).norm(dim=1) <= best + 1e-5).all()
        torch.testing.assert_close(share[rows].flatten(), grid.flatten()[at], atol=6e-4, rtol=0)


def test_it_serves_both_aims(pairs: tuple[Tensor, Tensor]) -> None:
    """<r, c> >= |r|^2, <r, d> >= |r|^2 and |r| <= min(|c|, |d|)."""
    c, d = pairs
    r, _ = shortest_between(c, d)
    square = dot(r, r)
    assert (dot(r, c) >= square - 1e-4).all() and (dot(r, d) >= square - 1e-4).all()
    assert (square.sqrt() <= torch.minimum(c.flatten(1).norm(dim=1), d.flatten(1).norm(dim=1)) + 1e-5).all()


def test_special_cases() -> None:
    c = draw(1, 2, 2, 2)
    d = without(c, draw(1, 2, 2, 2, seed=1))
    _, share = shortest_between(c, d)
    assert share.item() == pytest.approx((dot(d, d) / (dot(c, c) + dot(d, d))).item(), rel=1e-5)
    torch.testing.assert_close(shortest_between(c, 3.0 * c + 0.1 * d)[0], c)  # <c, d> >= |c|^2
    torch.testing.assert_close(shortest_between(3.0 * c + 0.1 * d, c)[0], c)
    assert shortest_between(-2.0 * c, c)[0].abs().max() < 1e-6, "Pareto-stationary: opposite aims cancel"
    same, half = shortest_between(c, c.clone())
    assert torch.equal(same, c) and half.item() == 0.5
    assert (shortest_between(0 * c, 0 * c)[0] == 0).all()


def test_samples_do_not_depend_on_each_other(make_evidence: Make) -> None:
    for settings in ({}, {"mode": "auto"}):
        rule = METHODS["bsd"].rule(METHODS["bsd"].config.model_validate(settings))
        four, again = make_evidence(), make_evidence()
        again.predictions[PROMPTED][2:] *= 5.0
        torch.testing.assert_close(rule(four)[:2], rule(again)[:2])
        assert not torch.allclose(rule(four)[2:], rule(again)[2:])


def test_the_rule_by_hand(make_evidence: Make) -> None:
    evidence = make_evidence()
    y, u = evidence.predictions[PROMPTED], evidence.predictions[BASELINE]
    fixed = METHODS["bsd"].rule(METHODS["bsd"].config())(evidence)
    torch.testing.assert_close(fixed, shortest_between(18.0 * (y - u), u)[0])
    auto = METHODS["bsd"].rule(METHODS["bsd"].config(mode="auto"))(evidence)
    rest = u - evidence.epsilon
    weight = 2.0 * rest.flatten(1).norm(dim=1) * evidence.here.sigma.flatten() / 50.0
    expected = shortest_between(y - u, 1.25 * rest)[0] * weight[:, None, None, None]
    torch.testing.assert_close(auto, expected)


# --- stable score distillation --------------------------------------------------------------------------------------


def test_a_projection_leaves_nothing_along_the_direction() -> None:
    direction, vector = draw(5, 2, 3, 3), draw(5, 2, 3, 3, seed=1)
    rest = without(direction, vector)
    assert dot(rest, direction).abs().max() < 1e-4
    torch.testing.assert_close(without(direction, rest), rest, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        vector - rest, direction * (dot(vector, direction) / dot(direction, direction))[:, None, None, None]
    )
    assert torch.equal(without(torch.zeros_like(vector), vector), vector)


def test_ssd_changes_its_form_at_a_tenth_of_the_axis(make_evidence: Make) -> None:
    evidence = make_evidence(branches=(PROMPTED, UNPROMPTED), t=[50, 100, 101, 800])
    y, null = evidence.predictions[PROMPTED], evidence.predictions[UNPROMPTED]
    found, direction = Projection(0.1)(evidence), y - null
    torch.testing.assert_close(found[2:], direction[2:])
    assert dot(found[:2], evidence.epsilon[:2]).abs().max() < 1e-3
    torch.testing.assert_close(found[:2].flatten(1).norm(dim=1), direction[:2].flatten(1).norm(dim=1))
    assert (dot(found[:2], y[:2]) > 0).all()
