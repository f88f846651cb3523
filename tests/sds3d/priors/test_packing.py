"""Packing a pooled vector into extra rows: exact round trip, linear, and errors that say what is wrong."""

from __future__ import annotations

import pytest
import torch

from sds3d.errors import ShapeError
from sds3d.priors.packing import pack, unpack


@pytest.mark.parametrize(("pooled_size", "rows"), [(1, 1), (7, 1), (8, 1), (9, 2), (16, 2), (20, 3)])
def test_round_trip_and_rows(pooled_size: int, rows: int) -> None:
    random = torch.Generator().manual_seed(pooled_size)
    tokens, pooled = torch.randn(3, 5, 8, generator=random), torch.randn(3, pooled_size, generator=random)
    packed = pack(tokens, pooled)
    assert packed.shape == (3, 5 + rows, 8)
    back_tokens, back_pooled = unpack(packed, pooled_size)
    assert torch.equal(back_tokens, tokens) and torch.equal(back_pooled, pooled)
    assert packed.flatten(1)[:, 40 + pooled_size :].abs().sum() == 0, "the rest of the last row is zeros"


def test_a_mixture_of_packed_texts_is_the_packed_mixture() -> None:
    random = torch.Generator().manual_seed(0)
    tokens, pooled = torch.randn(2, 3, 4, generator=random), torch.randn(2, 6, generator=random)
    packed = pack(tokens, pooled)
    mixed = pack(0.3 * tokens[:1] + 0.7 * tokens[1:], 0.3 * pooled[:1] + 0.7 * pooled[1:])
    torch.testing.assert_close(0.3 * packed[:1] + 0.7 * packed[1:], mixed)


def test_dtype_follows_the_tokens() -> None:
    assert pack(torch.zeros(1, 2, 4, dtype=torch.bfloat16), torch.ones(1, 3)).dtype == torch.bfloat16


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ShapeError, match=r"tokens has shape \[2, 4\], but \[n, T, D\]"):
        pack(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r"pooled has shape \[3, 4\], but \[2, P\]"):
        pack(torch.zeros(2, 1, 4), torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"packed text has shape \[1, 2, 4\], but \[n, more than 2, D\]"):
        unpack(torch.zeros(1, 2, 4), 8)
