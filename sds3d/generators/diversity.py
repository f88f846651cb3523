"""How different the objects of one prompt are: what distillation tends to lose, measured."""

from __future__ import annotations

from torch import Tensor

from sds3d.errors import ShapeError


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
