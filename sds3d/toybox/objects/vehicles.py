"""Vehicles: car, airplane, rocket and sailboat. Car, airplane and boat drive towards +X; the rocket stands upright."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.objects import jitter
from sds3d.toybox.shape import Shape, rotation

FLAT = rotation("x", -90)
"""Lays an extruded (x, z) outline down: outline z becomes world y."""


def _wheels(shape: Shape, front: float, back: float, half_width: float, radius: float) -> None:
    """Add four black wheels with light hubs that stand on z = 0."""
    for x in (front, back):
        for side in (-1.0, 1.0):
            inner, outer = side * half_width * 0.62, side * half_width * 1.10
            shape.rod((x, inner, radius), (x, outer, radius), radius, "black", "wheel", segments=18)
            hub = side * half_width * 1.14
            shape.rod((x, inner, radius), (x, hub, radius), 0.5 * radius, "light grey", "hub", segments=10)


def _pane(shape: Shape, low: tuple[float, float], high: tuple[float, float], width: float) -> None:
    """Add a windscreen between two (x, z) points of the cabin's profile, a little proud of it."""
    run, rise = high[0] - low[0], high[1] - low[1]
    length = float(np.hypot(run, rise))
    turn = rotation("y", float(np.degrees(np.arctan2(run, rise))))
    middle = ((low[0] + high[0]) / 2, 0.0, (low[1] + high[1]) / 2)
    shape.box((0.06, width, 0.74 * length), "window", "window", at=middle, turn=turn)


def _cabin(shape: Shape, rng: np.random.Generator, base: float, half: float, length: float) -> None:
    """Add the cabin from height `base` up: main-coloured pillars and roof, windows on all four sides."""
    height, top = jitter(rng, 0.40), jitter(rng, 0.5, 0.08) * length
    width = 1.72 * half
    back, front = -0.36 * length, 0.24 * length
    roof_back, roof_front = back + 0.07 * length, back + 0.07 * length + 0.72 * top
    profile = [(back, base), (front, base), (roof_front, base + height), (roof_back, base + height)]
    shape.extrude(profile, width, "main", "cabin")
    _pane(shape, profile[1], profile[2], 0.80 * width)
    _pane(shape, profile[0], profile[3], 0.66 * width)
    low, high = base + 0.17 * height, base + 0.80 * height
    middle = (back + front) / 2 - 0.04 * length
    gap = 0.025 * length
    rear = [(back + 0.10 * length, low), (middle - gap, low), (middle - gap, high), (roof_back + 0.06 * length, high)]
    ahead = [
        (middle + gap, low),
        (front - 0.08 * length, low),
        (roof_front - 0.04 * length, high),
        (middle + gap, high),
    ]
    shape.extrude(rear, width + 0.06, "window", "window")
    shape.extrude(ahead, width + 0.06, "window", "window")


def car(shape: Shape, rng: np.random.Generator) -> None:
    """A saloon: yellow headlights and a grille in front, red tail lights and a white plate at the back."""
    length, half = jitter(rng, 1.95, 0.08), jitter(rng, 0.44)
    radius = jitter(rng, 0.23)
    low, top = 0.75 * radius, 0.75 * radius + jitter(rng, 0.42, 0.1)
    nose, tail = length / 2, -length / 2
    profile = [
        (tail, low),
        (nose, low),
        (nose, top - 0.09),
        (nose - 0.12, top - 0.03),
        (0.2 * length, top),
        (tail + 0.08, top),
        (tail, top - 0.07),
    ]
    shape.extrude(profile, 2 * half, "main", "body")
    _cabin(shape, rng, top - 0.01, half, length)
    _wheels(shape, 0.31 * length, -0.31 * length, half, radius)
    lamp = top - 0.16
    shape.box((0.05, 1.0 * half, 0.13), "dark grey", "grille", at=(nose, 0, lamp))
    shape.box((0.05, 1.72 * half, 0.17), "dark grey", "rear panel", at=(tail, 0, lamp))
    shape.box((0.08, 0.6 * half, 0.12), "white", "plate", at=(tail, 0, lamp))
    for side in (-1.0, 1.0):
        y = side * 0.68 * half
        shape.rod((nose - 0.05, y, lamp), (nose + 0.05, y, lamp), 0.115, "lamp yellow", "headlight", segments=12)
        shape.box((0.09, 0.36 * half, 0.13), "red", "tail light", at=(tail, side * 0.64 * half, lamp))
    for x in (nose, tail):
        shape.box((0.14, 1.5 * half, 0.11), "light grey", "bumper", at=(x, 0, low + 0.06))


def _wings(shape: Shape, rng: np.random.Generator, radius: float) -> None:
    """Add swept main wings with an engine under each, and the tail: two stabilisers and a fin."""
    span, chord, sweep = jitter(rng, 0.95, 0.1), jitter(rng, 0.54, 0.1), jitter(rng, 0.34)
    stabiliser = jitter(rng, 0.44)
    for side in (-1.0, 1.0):
        tip = side * span
        wing = [(0.30, 0), (0.30 - sweep, tip), (0.04 - sweep, tip), (0.30 - chord, 0)]
        shape.extrude(wing, 0.12, "main", "wing", at=(0, 0, -0.3 * radius), turn=FLAT)
        plane = [(-0.62, 0), (-0.84, side * stabiliser), (-1.02, side * stabiliser), (-0.96, 0)]
        shape.extrude(plane, 0.11, "main", "stabiliser", at=(0, 0, 0.25 * radius), turn=FLAT)
        x, y, z = 0.25 - 0.42 * sweep, 0.42 * side * span, -0.3 * radius - 0.15
        shape.rod((x - 0.22, y, z), (x + 0.12, y, z), (0.09, 0.13), "light grey", "engine", segments=12)
        shape.rod((x + 0.1, y, z), (x + 0.135, y, z), 0.095, "dark grey", "engine", segments=12)
    high = jitter(rng, 0.46)
    fin = [(-0.98, 0.5 * radius), (-0.52, 0.5 * radius), (-0.86, radius + high), (-1.06, radius + high)]
    shape.extrude(fin, 0.13, "main", "fin")


def airplane(shape: Shape, rng: np.random.Generator) -> None:
    """An airliner in the main colour: dark cockpit, blue window rows, light nose and engines; nose to +X."""
    radius = jitter(rng, 0.215)
    along = rotation("y", 90)
    profile = [(0, -1.05), (0.35, -1.0), (0.62, -0.8), (1, -0.35), (1, 0.6), (0.93, 0.76), (0.76, 0.90)]
    shape.lathe([(radius * r, x) for r, x in profile], "main", "fuselage", turn=along, segments=18, smooth=True)
    nose = [(0.77, 0.895), (0.5, 0.99), (0.25, 1.03), (0, 1.04)]
    shape.lathe([(radius * r, x) for r, x in nose], "light grey", "nose", turn=along, segments=18, smooth=True)
    _wings(shape, rng, radius)
    shape.box((0.17, 1.3 * radius, 0.42 * radius), "dark grey", "cockpit", (0.755, 0, 0.72 * radius), rotation("y", 30))
    for x in np.linspace(-0.42, 0.52, 5):
        shape.box((0.11, 2.04 * radius, 0.36 * radius), "window", "window", at=(float(x), 0, 0.32 * radius))


def _fins(shape: Shape, rng: np.random.Generator, radius: float) -> None:
    """Add four swept dark fins the rocket stands on."""
    reach, height = jitter(rng, 0.36), jitter(rng, 0.62)
    fin = [
        (0.6 * radius, 0.1),
        (0.7 * radius + 0.2, -0.08),
        (0.8 * radius + reach, -0.22),
        (radius + reach, 0.12),
        (0.7 * radius, height),
    ]
    for angle in (45, 135, 225, 315):
        shape.extrude(fin, 0.11, "dark grey", "fin", turn=rotation("z", angle))


def rocket(shape: Shape, rng: np.random.Generator) -> None:
    """A space rocket: body in the main colour, light nose cone, dark fins and nozzle, round porthole in front."""
    radius, height = jitter(rng, 0.33), jitter(rng, 1.6, 0.1)
    belly = [(0, 0.02), (0.72, 0.0), (0.88, 0.12), (1.0, 0.34), (1.0, 0.5), (0.9, 0.68), (0.72, 0.82)]
    shape.lathe([(radius * r, height * h) for r, h in belly], "main", "body", segments=22, smooth=True)
    cone = [(0.76, 0.80), (0.74, 0.83), (0.48, 0.96), (0.2, 1.07), (0, 1.12)]
    shape.lathe([(radius * r, height * h) for r, h in cone], "light grey", "nose", segments=22, smooth=True)
    shape.lathe([(0, -0.17), (0.66 * radius, -0.17), (0.42 * radius, 0.03), (0, 0.03)], "grey", "nozzle", segments=18)
    _fins(shape, rng, radius)
    port, z = jitter(rng, 0.15), 0.56 * height
    shape.rod((0.5 * radius, 0, z), (radius + 0.03, 0, z), port + 0.06, "light grey", "porthole rim", segments=16)
    shape.rod((0.5 * radius, 0, z), (radius + 0.06, 0, z), port, "window", "porthole", segments=16)
    ring = 1.03 * radius
    shape.lathe(
        [(0.7 * radius, 0), (ring, 0), (ring, 0.09), (0.7 * radius, 0.09)],
        "light grey",
        "belt",
        at=(0, 0, 0.31 * height),
    )


def _hull_outline(bow: float, stern: float, half: float) -> list[tuple[float, float]]:
    """Return a deck outline (x, y): pointed bow, rounded sides, flat stern."""
    along = np.linspace(0.0, 1.0, 9)
    x = stern + (bow - stern) * along
    y = half * (1.0 - np.clip((along - 0.25) / 0.75, 0.0, 1.0) ** 2) * np.interp(along, [0, 0.25], [0.72, 1.0])
    right = [(float(a), float(-b)) for a, b in zip(x, y, strict=True)]
    left = [(float(a), float(b)) for a, b in zip(x[-2::-1], y[-2::-1], strict=True)]
    return right + left


def _hull(shape: Shape, length: float, half: float, depth: float) -> None:
    """Add the hull as eight planks that grow towards the deck at z = `depth`, a cream deck and a raised rim."""
    planks = 8
    for k in range(planks):
        grown = np.sqrt((k + 1) / planks)
        outline = _hull_outline(
            length * (0.30 + 0.26 * grown), -length * (0.34 + 0.10 * grown), half * (0.3 + 0.7 * grown)
        )
        z = depth * (k + 0.5) / planks
        shape.extrude(outline, 1.02 * depth / planks, "main", "hull", at=(0, 0, z), turn=FLAT)
    deck = _hull_outline(0.47 * length, -0.39 * length, 0.82 * half)
    shape.extrude(deck, 0.06, "light wood", "deck", at=(0, 0, depth + 0.01), turn=FLAT)


def sailboat(shape: Shape, rng: np.random.Generator) -> None:
    """A dinghy: hull and pennant in the main colour, wooden mast and boom, white mainsail and jib swung out."""
    length, half, depth = jitter(rng, 1.6, 0.1), jitter(rng, 0.42), jitter(rng, 0.46)
    _hull(shape, length, half, depth)
    mast, height = 0.06 * length, depth + jitter(rng, 1.22, 0.1)
    shape.rod((mast, 0, depth * 0.5), (mast, 0, height), 0.055, "wood", "mast")
    swing = jitter(rng, 38, 0.2)
    turn, back = rotation("z", swing), -0.43 * length
    foot = 0.16
    boom = turn @ np.array([back, 0.0, 0.0])
    shape.rod((mast, 0, depth + foot), (mast + boom[0], boom[1], depth + foot), 0.05, "wood", "boom")
    sail = [(back * 0.97, foot + 0.06), (-0.03, foot + 0.06), (-0.03, height - depth - 0.12)]
    shape.extrude(sail, 0.08, "white", "sail", at=(mast, 0, depth), turn=turn)
    jib = [(0.06, 0.16), (0.44 * length, 0.10), (0.06, 0.78 * (height - depth))]
    shape.extrude(jib, 0.08, "white", "sail", at=(mast, 0, depth), turn=rotation("z", 0.45 * swing))
    flag = [(0.0, -0.10), (0.0, 0.10), (-0.30, 0.0)]
    shape.extrude(flag, 0.09, "main", "flag", at=(mast, 0, height), turn=turn)


BUILDERS = {"car": car, "airplane": airplane, "rocket": rocket, "sailboat": sailboat}
