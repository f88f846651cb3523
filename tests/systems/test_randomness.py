"""Draws that follow from a seed and a place."""

from __future__ import annotations

import itertools

import torch

from systems.randomness import generator_for


def test_the_same_place_repeats_and_others_differ() -> None:
    places = list(itertools.product((0, 1, 2**32 - 1), ("start", "step"), (0, 1, 100_003)))
    draws = [torch.rand(4, generator=generator_for(*place)) for place in places]
    again = [torch.rand(4, generator=generator_for(*place)) for place in places]
    assert all(torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    assert len({tuple(draw.tolist()) for draw in draws}) == len(places)


def test_consecutive_steps_are_uniform_and_independent() -> None:
    """First draws of neighbouring steps: mean 1/2, variance 1/12, no correlation (bounds of 4 standard errors)."""
    count = 2000
    first = torch.tensor([float(torch.rand((), generator=generator_for(7, "step", i))) for i in range(count)])
    assert abs(float(first.mean()) - 0.5) < 4 * (1 / 12 / count) ** 0.5
    assert abs(float(first.var()) - 1 / 12) < 4 * (1 / 180 / count) ** 0.5
    correlation = float(torch.corrcoef(torch.stack([first[:-1], first[1:]]))[0, 1])
    assert abs(correlation) < 4 / count**0.5


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    torch.rand(9, generator=generator_for(3, "step", 3))
    assert torch.equal(torch.rand(3), expected)
