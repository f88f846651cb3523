"""The toybox objects: `build(noun, ...)` makes one from a random generator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sds3d.toybox.shape import Shape

Builder = Callable[[Shape, np.random.Generator], None]


def jitter(rng: np.random.Generator, value: float, spread: float = 0.12) -> float:
    """Return `value` times a uniform factor in [1 - spread, 1 + spread]."""
    return value * (1.0 + spread * (2.0 * rng.random() - 1.0))


def builders() -> dict[str, Builder]:
    """Return the function of each noun; it adds the primitives of one random specimen to a `Shape`."""
    from sds3d.toybox.objects import household, nature, structures, toys, vehicles

    table: dict[str, Builder] = {}
    for module in (household, nature, structures, toys, vehicles):
        table |= module.BUILDERS
    return table
