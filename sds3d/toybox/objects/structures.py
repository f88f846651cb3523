"""Buildings: house and castle. Both have their door on the front (+X)."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.objects import jitter
from sds3d.toybox.shape import Shape, rotation

FACE_FRONT = rotation("z", 90)
"""Turns an extruded (x, z) outline so that it faces +X: outline x becomes world y."""


def _arch(width: float, height: float) -> list[tuple[float, float]]:
    """Return the outline of a round-topped door standing on z = 0."""
    radius = width / 2
    angles = np.linspace(0.0, np.pi, 9)
    top = [(float(radius * np.cos(a)), float(height - radius + radius * np.sin(a))) for a in angles]
    return [(-radius, 0.0), (radius, 0.0), *top]


def _window(shape: Shape, centre: tuple[float, float, float], size: float, along: str) -> None:
    """Add a framed square window on a wall whose normal is the axis `along` ("x" or "y")."""
    thin, thinner = 0.05, 0.08
    frame = (thin, size * 1.4, size * 1.4) if along == "x" else (size * 1.4, thin, size * 1.4)
    glass = (thinner, size, size) if along == "x" else (size, thinner, size)
    shape.box(frame, "white", "window frame", at=centre)
    shape.box(glass, "window", "window", at=centre)


def _gable_roof(shape: Shape, depth: float, half: float, eaves: float, ridge: float, thick: float) -> None:
    """Add two slabs that meet over the ridge (along x); they hang over the walls by 17 % and 7 %."""
    slope = (ridge - eaves) / half
    reach = 1.17 * half
    low = ridge - slope * reach
    lift = thick - 0.03
    for side in (-1.0, 1.0):
        slab = [(0, ridge - 0.03), (side * reach, low - 0.03), (side * reach, low + lift), (0, ridge + lift)]
        shape.extrude(slab, 1.14 * depth, "roof", "roof", turn=FACE_FRONT)


def house(shape: Shape, rng: np.random.Generator) -> None:
    """A cottage: walls in the main colour, gable roof, chimney, door and two windows in front, plain back."""
    depth, half = jitter(rng, 1.15), jitter(rng, 0.56)
    eaves, rise = jitter(rng, 0.80), jitter(rng, 0.44)
    ridge = eaves + rise
    walls = [(-half, 0), (half, 0), (half, eaves), (0, ridge), (-half, eaves)]
    shape.extrude(walls, depth, "main", "wall", turn=FACE_FRONT)
    _gable_roof(shape, depth, half, eaves, ridge, jitter(rng, 0.11))
    front = depth / 2
    door_width, door_height = jitter(rng, 0.29), jitter(rng, 0.54, 0.08)
    shape.box(
        (0.05, door_width + 0.10, door_height + 0.05), "white", "door frame", (front, 0, (door_height + 0.05) / 2)
    )
    shape.box((0.09, door_width, door_height), "wood", "door", at=(front, 0, door_height / 2))
    shape.ellipsoid(
        (0.03, 0.03, 0.03),
        "lamp yellow",
        "knob",
        (front + 0.05, door_width * 0.3, door_height * 0.5),
        segments=8,
        rings=6,
    )
    shape.box((0.20, door_width + 0.16, 0.07), "grey", "step", at=(front + 0.08, 0, 0.034))
    size = jitter(rng, 0.19, 0.1)
    for side in (-1.0, 1.0):
        offset = side * (half + door_width / 2) / 2 * 1.06
        _window(shape, (front, offset, eaves * 0.56), min(size, 0.32 * half), "x")
        _window(shape, (0, side * half, eaves * 0.52), size * 1.45, "y")
    _window(shape, (front, 0, eaves + 0.34 * rise), size * 0.85, "x")
    chimney, at_side = jitter(rng, 0.19), -0.5 * half
    shape.box(
        (chimney, chimney, 0.55 * rise + 0.22),
        "terracotta",
        "chimney",
        at=(-0.22 * depth, at_side, ridge - 0.12 * rise),
    )


def _tower(shape: Shape, rng: np.random.Generator, at: tuple[float, float], radius: float, height: float) -> None:
    """Add a round tower with a wider top, a dark cone roof and a slit window that faces outwards."""
    wide = 1.16 * radius
    profile = [
        (0, 0),
        (radius * 1.08, 0),
        (radius, 0.1),
        (radius, 0.80 * height),
        (wide, 0.86 * height),
        (wide, height),
        (0, height),
    ]
    shape.lathe(profile, "main", "tower", at=(*at, 0), segments=16)
    roof = jitter(rng, 0.52, 0.08)
    shape.lathe(
        [(0, 0), (1.32 * radius, 0), (0, roof)], "dark grey", "tower roof", at=(*at, height - 0.002), segments=16
    )
    slit = (radius * 0.92, 0.11, 0.20)
    shape.box(slit, "black", "slit", at=(at[0] + np.sign(at[0]) * radius * 0.57, at[1], 0.6 * height))


def _wall(shape: Shape, half: float, height: float, thick: float) -> None:
    """Add four curtain walls on a square of half side `half`, with three merlons each."""
    for axis in ("x", "y"):
        for side in (-1.0, 1.0):
            centre = (side * half, 0.0) if axis == "x" else (0.0, side * half)
            size = (thick, 2 * half, height) if axis == "x" else (2 * half, thick, height)
            shape.box(size, "main", "wall", at=(*centre, height / 2))
            for step in (-0.42, 0.0, 0.42):
                shift = (0.0, step * half) if axis == "x" else (step * half, 0.0)
                place = (centre[0] + shift[0], centre[1] + shift[1], height + 0.05)
                shape.box((0.17, 0.17, 0.14), "main", "merlon", at=place)


def castle(shape: Shape, rng: np.random.Generator) -> None:
    """A square castle: four round towers with cone roofs, crenellated walls, a keep, a gate in front."""
    half, height = jitter(rng, 0.56, 0.1), jitter(rng, 0.56)
    radius, tall = jitter(rng, 0.22), jitter(rng, 0.86, 0.1)
    _wall(shape, half, height, 0.15)
    for x in (-half, half):
        for y in (-half, half):
            _tower(shape, rng, (x, y), radius, tall)
    keep, top = jitter(rng, 0.52), tall + jitter(rng, 0.30)
    shape.box((keep, keep, top), "main", "keep", at=(0, 0, top / 2))
    shape.box((keep * 1.16, keep * 1.16, 0.10), "light grey", "keep rim", at=(0, 0, top - 0.04))
    for x in (-0.44, 0.44):
        for y in (-0.44, 0.44):
            shape.box((0.16, 0.16, 0.15), "main", "merlon", at=(x * keep, y * keep, top + 0.07))
    for side in (-1.0, 1.0):
        shape.box((0.06, 0.12, 0.16), "black", "slit", at=(side * keep / 2, 0, top - 0.24))
        shape.box((0.12, 0.06, 0.16), "black", "slit", at=(0, side * keep / 2, top - 0.24))
    gate = jitter(rng, 0.32, 0.1)
    front = half + 0.075
    shape.extrude(
        _arch(gate + 0.14, height * 0.86), 0.08, "light grey", "gate frame", at=(front, 0, 0), turn=FACE_FRONT
    )
    shape.extrude(_arch(gate, height * 0.74), 0.13, "dark wood", "gate", at=(front, 0, 0.001), turn=FACE_FRONT)


BUILDERS = {"house": house, "castle": castle}
