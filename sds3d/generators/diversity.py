"""How different the objects of one prompt are: what distillation tends to lose, measured."""

from __future__ import annotations

import torch
from torch import Tensor

from sds3d.errors import ShapeError


def closeness(pictures: Tensor, seeds: int, views: int, distance: float) -> Tensor:
    """Return [] by how much, in the mean over pairs, pictures of objects of one prompt are less than `distance` apart.

    pictures: [P * seeds * views, H, W, 3], those of a prompt together and seen by the same cameras; their distance is the root
    mean square difference. Its gradient drives objects apart. At least two seeds are needed.
    Source: ours; that outputs may ignore the noise is the concern of mode-seeking GANs (arXiv 1903.05628), whose ratio has no
    bound.
    """
    rows = pictures.reshape(-1, seeds, views * pictures[0].numel())
    left, right = torch.triu_indices(seeds, seeds, 1).unbind()
    apart = ((rows[:, left] - rows[:, right]).square().mean(dim=-1) + 1e-8).sqrt()
    return (distance - apart).clamp(min=0.0).mean()


def pairwise_distance(pictures: Tensor) -> float:
    """Return the mean over all pairs of seeds of the root mean square difference of their pictures.

    pictures: [seeds, views, H, W, 3] in [0, 1], the same cameras for each seed. 0 means that all seeds give one object.
    Raises: ShapeError for fewer than two seeds.
    """
    if pictures.ndim != 5 or len(pictures) < 2:
        raise ShapeError("pictures", "[seeds >= 2, views, H, W, 3]", tuple(pictures.shape))
    rows = pictures.flatten(1)
    count = len(rows)
    distances = [(rows[i] - rows[j]).square().mean().sqrt() for i in range(count) for j in range(i)]
    return float(sum(distances) / len(distances))
