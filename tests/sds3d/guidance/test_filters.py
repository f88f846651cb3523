"""Gradient filters."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import DivergenceError
from sds3d.guidance import filters


def test_the_first_broken_term_is_named() -> None:
    good, nan, inf = torch.ones(2), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])
    filters.stop_if_not_finite({"a": good, "b": good}, 3)
    with pytest.raises(DivergenceError, match="'b' is not finite at step 3"):
        filters.stop_if_not_finite({"a": good, "b": inf, "c": nan}, 3)
    filters.stop_if_not_finite({"a": torch.ones(2, device="meta")}, 3)


def test_replacing_counts_and_keeps_the_rest() -> None:
    gradient = torch.tensor([[1.0, float("nan")], [float("-inf"), -2.0]])
    replaced, count = filters.replace_non_finite(gradient)
    assert replaced.tolist() == [[1.0, 0.0], [0.0, -2.0]] and count.item() == 2
    assert gradient[0, 1].isnan(), "the argument is not changed"


def test_clamp_and_unit_norm() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.5, 0.0]])
    assert filters.clamp_elements(gradient, 1.0).tolist() == [[1.0, -1.0], [0.5, 0.0]]
    unit = filters.to_unit_norm(gradient)
    assert unit.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(unit * gradient.norm(), gradient)
    assert (filters.to_unit_norm(torch.zeros(3)) == 0).all()
