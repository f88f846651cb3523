"""Household things: chair, table, bed, lamp, mug, teapot, cake, umbrella."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.objects import jitter
from sds3d.toybox.shape import Shape, rotation


def chair(shape: Shape, rng: np.random.Generator) -> None:
    """Coloured seat and back on wooden legs; the back rest leans away at -X."""
    half, width = jitter(rng, 0.27), jitter(rng, 0.28)
    seat, back, leg = jitter(rng, 0.52), jitter(rng, 0.64), jitter(rng, 0.05)
    shape.box((2 * half, 2 * width, 0.11), part="seat", at=(0, 0, seat))
    for x in (-1, 1):
        for y in (-1, 1):
            foot = (x * (half - leg * 0.8), y * (width - leg * 0.8), 0)
            top = (x * (half - leg * 1.3), y * (width - leg * 1.3), seat)
            shape.rod(foot, top, (leg * 0.85, leg), "wood", "leg", segments=16)
    lean = rotation("y", -jitter(rng, 8, 0.4))
    hinge = np.array([-half + 0.06, 0, seat - 0.02])

    def on_back(size: tuple[float, float, float], y: float, z: float) -> None:
        shape.box(size, part="back", at=hinge + lean @ np.array([0, y, z]), turn=lean)

    for side in (-1, 1):
        on_back((0.08, 0.09, back), side * (width - 0.055), back / 2)
    on_back((0.1, 2 * width + 0.02, back * 0.27), 0, back * 0.93)
    on_back((0.06, width * 0.55, back * 0.9), 0, back * 0.45)


def table(shape: Shape, rng: np.random.Generator) -> None:
    """A long table, wide along Y, wholly in the main colour."""
    half, width, height = jitter(rng, 0.36), jitter(rng, 0.62), jitter(rng, 0.6)
    leg, inset = jitter(rng, 0.06), 0.08
    shape.box((2 * half, 2 * width, 0.085), part="top", at=(0, 0, height))
    shape.box((2 * (half - inset), 2 * (width - inset), 0.13), part="apron", at=(0, 0, height - 0.09))
    for x in (-1, 1):
        for y in (-1, 1):
            foot = (x * (half - inset - 0.01), y * (width - inset - 0.01), 0)
            top = (x * (half - inset - leg * 0.6), y * (width - inset - leg * 0.6), height - 0.02)
            shape.rod(foot, top, (leg * 0.75, leg * 1.1), part="leg", segments=20)


def bed(shape: Shape, rng: np.random.Generator) -> None:
    """Wooden frame with a coloured cover; high headboard and white pillow at -X, low footboard at +X."""
    half, width = jitter(rng, 0.68), jitter(rng, 0.38)
    head, foot, floor = jitter(rng, 0.58), jitter(rng, 0.3), 0.16
    shape.box((2 * half, 2 * width - 0.04, 0.13), "wood", "frame", at=(0, 0, floor + 0.03))
    for x, height in ((-half, head), (half, foot)):
        shape.box((0.09, 2 * width, height - 0.1), "wood", "frame", at=(x, 0, floor + (height - 0.1) / 2 - 0.05))
        for y in (-width, width):
            shape.rod((x, y, 0), (x, y, height + 0.04), 0.06, "dark wood", "frame", segments=12)
            shape.ellipsoid((0.075, 0.075, 0.07), "dark wood", "frame", at=(x, y, height + 0.06), segments=12, rings=6)
    length = half * 1.3
    shape.box((2 * half - 0.1, 2 * width - 0.07, 0.12), "white", "sheet", at=(0, 0, floor + 0.13))
    shape.box(
        (length, 2 * width + 0.02, 0.24),
        part="cover",
        at=(half - 0.055 - length / 2, 0, floor + 0.16),
        taper=(0.96, 0.9),
    )
    shape.ellipsoid(
        (0.17, width * 0.74, 0.1), "white", "pillow", at=(-half + 0.21, 0, floor + 0.26), turn=rotation("y", 22)
    )


def lamp(shape: Shape, rng: np.random.Generator) -> None:
    """A table lamp: hollow shade in the main colour, stout pole, heavy foot."""
    wide, tall = jitter(rng, 0.4), jitter(rng, 0.5)
    narrow, pole, foot = wide * jitter(rng, 0.55), jitter(rng, 0.55), jitter(rng, 0.26)
    shape.lathe(
        [(foot, 0), (foot, 0.07), (foot * 0.8, 0.12), (0.07, 0.16), (0, 0.16)], "dark grey", "foot", segments=28
    )
    shape.lathe([(0, 0), (foot, 0)], "dark grey", "foot", segments=28)
    shape.rod((0, 0, 0.1), (0, 0, pole + 0.1), 0.05, "grey", "pole")
    shape.ellipsoid((0.12, 0.12, 0.14), "lamp yellow", "bulb", at=(0, 0, pole + 0.12), segments=14, rings=8)
    wall = 0.035
    shape.lathe(
        [
            (wide - wall, pole), (wide, pole), (narrow, pole + tall),
            (narrow - wall, pole + tall), (wide - wall, pole),
        ],
        part="shade",
        segments=32,
    )  # fmt: skip
    shape.lathe([(narrow - wall / 2, pole + tall * 0.97), (0, pole + tall * 0.97)], "cream", "shade top", segments=32)


def _ring(shape: Shape, radius: float, thickness: float, height: float, color: str, part: str) -> None:
    angle = np.linspace(-np.pi, np.pi, 9)
    profile = [(radius + thickness * np.cos(a), thickness * np.sin(a)) for a in angle]
    shape.lathe(profile, color, part, at=(0, 0, height), segments=24, smooth=True)


def mug(shape: Shape, rng: np.random.Generator) -> None:
    """A mug of coffee with its handle at +Y."""
    radius, height, wall = jitter(rng, 0.4), jitter(rng, 0.9), 0.06
    ring = height * jitter(rng, 0.27)
    outside = [(0, 0), (radius * 0.9, 0), (radius * 0.97, 0.05), (radius, height)]
    shape.lathe([*outside, (radius - wall, height), (radius - wall, 0.1), (0, 0.1)], part="body", segments=32)
    shape.lathe([(radius - wall / 2, 0), (0, 0)], "dark wood", "coffee", at=(0, 0, height * 0.84), segments=32)
    _ring(shape, radius - wall / 2, wall * 0.62, height, "main", "rim")
    shape.arc(
        ring, 0.075, -95, 95, part="handle", at=(0, radius * 0.97, height * 0.5), turn=rotation("z", 90), squash=1.05
    )


def teapot(shape: Shape, rng: np.random.Generator) -> None:
    """A round teapot: spout at +X, cream handle at -X, cream knob."""
    radius, height = jitter(rng, 0.43), jitter(rng, 0.37)
    shape.lathe([(0, 0), (radius * 0.6, 0), (radius * 0.52, 0.1), (0, 0.1)], part="foot", at=(0, 0, -height - 0.03))
    shape.ellipsoid((radius, radius, height), part="body", segments=28, rings=16)
    shape.lathe(
        [(radius * 0.58, 0), (radius * 0.6, 0.05), (radius * 0.5, 0.07), (radius * 0.25, 0.13), (0, 0.15)],
        part="lid",
        at=(0, 0, height * 0.8),
    )
    shape.ellipsoid((0.085, 0.085, 0.085), "cream", "knob", at=(0, 0, height * 0.8 + 0.19), segments=16, rings=10)
    reach, rise = jitter(rng, 0.42), jitter(rng, 0.33)
    bend = np.linspace(0, 1, 9)
    path = np.stack(
        [radius * 0.75 + reach * bend, 0 * bend, -0.12 + (rise + 0.1) * (3 * bend**2 - 2 * bend**3)], axis=1
    )
    width = np.linspace(0.15, 0.075, 9)
    shape.tube(path, width, part="spout", segments=14)
    shape.ellipsoid((0.035, 0.075, 0.075), "dark grey", "spout hole", at=path[-1], segments=12, rings=8)
    shape.arc(
        height * 0.68, 0.065, 75, 285, "cream", "handle", at=(-radius * 0.98, 0, 0.02), squash=jitter(rng, 1.0, 0.08)
    )


def cake(shape: Shape, rng: np.random.Generator) -> None:
    """Two tiers in coloured icing with cream piping, candles on top, on a light plate."""
    low, high = jitter(rng, 0.5), jitter(rng, 0.31)
    first, second = jitter(rng, 0.32), jitter(rng, 0.26)
    shape.lathe([(0, 0), (low * 1.1, 0), (low * 1.25, 0.07), (0, 0.07)], "light grey", "plate", segments=32)
    shape.lathe([(low, 0), (low, first), (0, first)], part="icing", at=(0, 0, 0.06), segments=32)
    top = 0.06 + first
    shape.lathe([(high, 0), (high, second), (0, second)], part="icing", at=(0, 0, top), segments=32)
    _ring(shape, low * 0.96, 0.055, top, "cream", "piping")
    _ring(shape, high * 0.95, 0.05, top + second, "cream", "piping")
    _ring(shape, high * 1.02, 0.045, top + 0.02, "cream", "piping")
    top += second
    count, turn = int(rng.integers(3, 6)), rng.random() * 360
    tall = jitter(rng, 0.2)
    for k in range(count):
        angle = np.radians(turn + 360 * k / count)
        x, y = high * 0.58 * np.cos(angle), high * 0.58 * np.sin(angle)
        shape.rod((x, y, top - 0.02), (x, y, top + tall), 0.035, "white", "candle", segments=8)
        shape.ellipsoid((0.045, 0.045, 0.075), "orange", "flame", at=(x, y, top + tall + 0.05), segments=8, rings=6)


def umbrella(shape: Shape, rng: np.random.Generator) -> None:
    """An open umbrella: hollow eight-sided canopy, dark pole, hooked handle bending to +Y."""
    radius, rise, pole = jitter(rng, 0.66), jitter(rng, 0.4), jitter(rng, 0.72)
    polar = np.linspace(0, np.pi / 2, 8)
    outer = [(radius * np.cos(a), rise * np.sin(a)) for a in polar]
    inner = [(0.94 * r, 0.88 * z) for r, z in reversed(outer)]
    shape.lathe([*inner, *outer], part="canopy", segments=8)
    for k in range(8):
        angle = 2 * np.pi * k / 8
        tip = (radius * np.cos(angle), radius * np.sin(angle), 0.01)
        shape.ellipsoid((0.04, 0.04, 0.04), "dark grey", "tip", at=tip, segments=8, rings=6)
    shape.rod((0, 0, -pole), (0, 0, rise * 0.95), 0.04, "dark grey", "pole")
    shape.rod((0, 0, rise * 0.95), (0, 0, rise + 0.13), (0.045, 0.03), "dark grey", "ferrule")
    hook = jitter(rng, 0.13)
    shape.arc(hook, 0.048, 180, 370, "dark grey", "handle", at=(0, hook, -pole), turn=rotation("z", 90), squash=1.0)
    end = (0, hook + hook * np.cos(np.radians(10)), -pole + hook * np.sin(np.radians(10)))
    shape.ellipsoid((0.048, 0.048, 0.048), "dark grey", "handle", at=end, segments=10, rings=6)


BUILDERS = {
    "chair": chair,
    "table": table,
    "bed": bed,
    "lamp": lamp,
    "mug": mug,
    "teapot": teapot,
    "cake": cake,
    "umbrella": umbrella,
}
