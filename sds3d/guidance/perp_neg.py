"""Perp-Neg: keep away from the views the camera does not have, without weakening the one it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sds3d.guidance.project import without

if TYPE_CHECKING:
    from torch import Tensor


def steered(prompted: Tensor, unprompted: Tensor, others: list[Tensor], weights: Tensor) -> Tensor:
    """Return y + sum_i w_i e_i', e_i' = (other_i - 0) without its part along y - 0.

    Put in the place of y it turns u + s (y - u) into 0 + s (e + sum_i w_i e_i') where u is the empty text.

    Args:
        prompted, unprompted: [B, C, h, w] predictions with the prompt and with the empty text.
        others: predictions with the texts of the wrong views, [B, C, h, w] each.
        weights: [B, len(others)], at most 0.

    Source: Perp-Neg (arXiv 2304.04968) as in threestudio. Deviation: samples and their negatives have the same order,
    which the public code mixes up for more than one sample.
    """
    along = prompted - unprompted
    result = prompted
    for number, other in enumerate(others):
        result = result + weights[:, number, None, None, None] * without(along, other - unprompted)
    return result
