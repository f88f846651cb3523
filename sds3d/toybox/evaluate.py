"""Judge the bundled prior by its own samples of pairs it never saw, and by what it makes of wrong conditions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sds3d.cameras import turntable
from sds3d.toybox.captions import Description, phrase
from sds3d.toybox.judge import Judge, azimuth_error
from sds3d.toybox.palette import ASYMMETRIC, COLORS, NOUNS, held_out_pairs

VIEWS = 5
"""Views a pair, 72 degrees apart, at elevation 20 and distance 2.5."""

Sampler = Callable[[list[str], Tensor, int], Tensor]
"""(texts, cam_to_world [B, 4, 4], seed) -> images [B, H, W, 3] in [0, 1]."""


def sample_report(sampler: Sampler, judge: Judge, seed: int = 0) -> tuple[dict[str, Any], Tensor]:
    """Return (scores, images [24 * VIEWS, H, W, 3]) of samples of every held-out noun-colour pair.

    Scores: noun and color accuracy over all samples, azimuth within 45 degrees over asymmetric nouns, and both per noun.
    """
    pairs = held_out_pairs()
    cameras = turntable(VIEWS, 64, 20.0, 2.5)
    texts = [phrase(Description(noun=noun, color=color)) for noun, color in pairs for _ in range(VIEWS)]
    images = sampler(texts, cameras.cam_to_world.repeat(len(pairs), 1, 1), seed)
    verdict = judge.verdict(images)
    nouns = torch.tensor([NOUNS.index(noun) for noun, _ in pairs]).repeat_interleave(VIEWS)
    colors = torch.tensor([list(COLORS).index(color) for _, color in pairs]).repeat_interleave(VIEWS)
    error = azimuth_error(verdict["azimuth_deg"], cameras.azimuth_deg.repeat(len(pairs)))
    turned = torch.tensor([noun in ASYMMETRIC for noun, _ in pairs]).repeat_interleave(VIEWS)
    right = verdict["noun"] == nouns
    return {
        "noun": float(right.float().mean()),
        "color": float((verdict["color"] == colors).float().mean()),
        "azimuth_within_45": float((error[turned] <= 45).float().mean()),
        "noun_by_noun": {n: float(right[nouns == NOUNS.index(n)].float().mean()) for n in NOUNS},
        "azimuth_by_noun": {n: float((error <= 45)[nouns == NOUNS.index(n)].float().mean()) for n in ASYMMETRIC},
    }, images
