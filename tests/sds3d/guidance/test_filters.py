"""Gradient filters in latents and in pixels (T15)."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from sds3d.errors import DivergenceError
from sds3d.guidance import filters
from sds3d.guidance.config import PixelFilterName


def test_the_first_broken_term_is_named() -> None:
    good, nan, inf = torch.ones(2), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])
    filters.stop_if_not_finite({"a": good, "b": good}, 3)
    with pytest.raises(DivergenceError, match="'b' is not finite at step 3"):
        filters.stop_if_not_finite({"a": good, "b": inf, "c": nan}, 3)
    filters.stop_if_not_finite({"a": torch.ones(2, device="meta")}, 3)


def test_replacing_counts_and_keeps_the_rest() -> None:
    gradient = torch.arange(1.0, 201.0).reshape(10, 20)
    gradient[0, 1], gradient[1, 0] = float("nan"), float("-inf")
    replaced, count = filters.replace_non_finite(gradient)
    assert count.item() == 2 and replaced[0, 1] == replaced[1, 0] == 0
    assert (replaced == gradient).sum() == 198
    assert gradient[0, 1].isnan(), "the argument is not changed"


def test_replacing_stops_when_it_would_hide_a_bug() -> None:
    gradient = torch.zeros(10, 20)
    gradient[0, :3] = float("nan")
    with pytest.raises(DivergenceError, match=r"gradient \(3 of 200 elements\)' is not finite at step 7"):
        filters.replace_non_finite(gradient, 7)
    assert filters.replace_non_finite(torch.zeros(3, device="meta"))[0].is_meta


def test_clamp_and_unit_norm() -> None:
    gradient = torch.tensor([[3.0, -4.0], [0.5, 0.0]])
    assert filters.clamp_elements(gradient, 1.0).tolist() == [[1.0, -1.0], [0.5, 0.0]]
    unit = filters.to_unit_norm(gradient)
    assert unit.norm().item() == pytest.approx(1.0)
    torch.testing.assert_close(unit * gradient.norm(), gradient)
    assert (filters.to_unit_norm(torch.zeros(3)) == 0).all()


# --- T15: pixel-wise gradient clipping and its relatives ----------------------------------------------------------

LIMIT = 0.1


@pytest.fixture
def gradient() -> torch.Tensor:
    """[2, 8, 8, 3] gradients whose pixels are far below, around and far above the limit, one of them zero."""
    random = torch.Generator().manual_seed(0)
    size = 10.0 ** (4 * torch.rand(2, 8, 8, 1, generator=random) - 3)
    made = torch.randn(2, 8, 8, 3, generator=random) * size
    made[0, 0, 0] = 0.0
    return made


def test_all_filters_can_be_named(gradient: torch.Tensor) -> None:
    assert set(filters.PIXEL_FILTERS) | {"none"} == set(get_args(PixelFilterName))
    assert filters.filter_pixels(gradient, "none", LIMIT) is gradient
    for name in filters.PIXEL_FILTERS:
        filtered = filters.filter_pixels(gradient, name, LIMIT)
        assert filtered.isfinite().all() and (filtered[0, 0, 0] == 0).all(), "safe at zero"
        assert (filters.filter_pixels(gradient, name, 0.0) == 0).all()


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_pgc_bounds_each_pixel_keeps_its_direction_and_small_gradients(gradient: torch.Tensor, norm: str) -> None:
    clipped = filters.filter_pixels(gradient, "pixel", LIMIT, norm)
    before, after = filters.pixel_size(gradient, norm)[..., 0], filters.pixel_size(clipped, norm)[..., 0]
    assert after.max() <= LIMIT * (1 + 1e-6) and (before > LIMIT).any() and (before < LIMIT).any()
    torch.testing.assert_close(after[before > LIMIT], torch.full_like(after[before > LIMIT], LIMIT))
    assert torch.equal(clipped[before <= LIMIT], gradient[before <= LIMIT]), "the identity below the limit"
    cosine = torch.nn.functional.cosine_similarity(clipped, gradient, dim=-1)[before > 0]
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
    if norm == "inf":
        assert clipped.norm(dim=-1).max() <= 3**0.5 * LIMIT * (1 + 1e-6)


def test_pgc_is_idempotent_and_scales_with_its_limit(gradient: torch.Tensor) -> None:
    clipped = filters.filter_pixels(gradient, "pixel", LIMIT)
    torch.testing.assert_close(filters.filter_pixels(clipped, "pixel", LIMIT), clipped)
    scaled = filters.filter_pixels(3.0 * gradient, "pixel", 3.0 * LIMIT)
    torch.testing.assert_close(scaled, 3.0 * clipped)
    assert torch.equal(filters.filter_pixels(gradient, "pixel", float("inf")), gradient)


def test_pgc_treats_pixels_one_by_one(gradient: torch.Tensor) -> None:
    """An outlier changes no other pixel (a filter by picture, "global", lets it)."""
    outlier = gradient.clone()
    outlier[1, 3, 4] *= 1e4
    others = torch.ones(2, 8, 8, dtype=torch.bool)
    others[1, 3, 4] = False
    for name, is_local in (("pixel", True), ("pixel-soft", True), ("global", False)):
        one, other = (filters.filter_pixels(g, name, LIMIT)[others] for g in (gradient, outlier))  # type: ignore[arg-type]
        assert torch.equal(one, other) == is_local


def test_the_variants_keep_their_own_bounds(gradient: torch.Tensor) -> None:
    def of(name: PixelFilterName) -> torch.Tensor:
        return filters.filter_pixels(gradient, name, LIMIT)

    assert of("element").abs().max() == pytest.approx(LIMIT)
    torch.testing.assert_close(of("global").abs().amax(dim=(1, 2, 3)), torch.full((2,), LIMIT))
    assert LIMIT / 4 < of("sigmoid").abs().max() <= LIMIT / 2
    assert 0.9 * LIMIT < of("element-soft").abs().max() < LIMIT
    soft, size = of("pixel-soft"), filters.pixel_size(gradient)
    assert filters.pixel_size(soft).max() < LIMIT
    torch.testing.assert_close(soft, LIMIT * gradient / (size + LIMIT))
    order = size.flatten().argsort()
    assert (filters.pixel_size(soft).flatten()[order].diff() >= -1e-9).all(), "monotone"
    changed = of("element")[size.squeeze(-1) > LIMIT], gradient[size.squeeze(-1) > LIMIT]
    assert torch.nn.functional.cosine_similarity(*changed, dim=-1).min() < 0.99, "by element the direction changes"
