"""Toys and figures: fish, robot, snowman, guitar, duck and dog. All look towards +X."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.objects import jitter
from sds3d.toybox.shape import Shape, rotation

FACE_FRONT = rotation("z", 90)
"""Turns an extruded (x, z) outline so that it faces +X: outline x becomes world y."""


def _ball(shape: Shape, at: tuple[float, float, float], radius: float, color: str, part: str) -> None:
    """Add a small coarse sphere."""
    shape.ellipsoid((radius, radius, radius), color, part, at=at, segments=10, rings=7)


def _eyes(shape: Shape, at: tuple[float, float, float], radius: float, look: tuple[float, float]) -> None:
    """Add a pair of white eyes with black pupils at `at` and its mirror; `look` is the pupils' (x, y) direction."""
    x, y, z = at
    direction = np.asarray(look) / np.hypot(*look)
    for side in (-1.0, 1.0):
        _ball(shape, (x, side * y, z), radius, "white", "eye")
        pupil = (x + 0.5 * radius * direction[0], side * (y + 0.5 * radius * direction[1]), z)
        _ball(shape, pupil, 0.68 * radius, "black", "pupil")


def fish(shape: Shape, rng: np.random.Generator) -> None:
    """A fish in the main colour: forked tail at -X, dorsal, belly and side fins, big eyes, dark lips."""
    length, high, half = jitter(rng, 0.74, 0.1), jitter(rng, 0.44), jitter(rng, 0.29)
    shape.ellipsoid((length, half, high), "main", "body", segments=24, rings=14)
    root, spread = -0.80 * length, jitter(rng, 0.44)
    reach = jitter(rng, 0.52)
    for side in (-1.0, 1.0):
        lobe = [(root, -0.13 * side), (root, 0.13 * side), (root - reach, side * spread), (root - 0.62 * reach, 0.0)]
        shape.extrude(lobe, 0.12, "main", "tail")
    tall = jitter(rng, 0.30)
    dorsal = [
        (-0.45 * length, 0.6 * high),
        (0.38 * length, 0.7 * high),
        (0.1 * length, high + 0.6 * tall),
        (-0.40 * length, high + tall),
    ]
    shape.extrude(dorsal, 0.11, "main", "dorsal fin")
    belly = [(-0.42 * length, -0.6 * high), (0.12 * length, -0.8 * high), (-0.38 * length, -high - 0.6 * tall)]
    shape.extrude(belly, 0.11, "main", "belly fin")
    for side in (-1.0, 1.0):
        turn = rotation("z", -side * 25) @ rotation("x", side * 38)
        at = (-0.02 * length, side * 0.98 * half, -0.26 * high)
        shape.ellipsoid((0.20, 0.06, 0.12), "main", "side fin", at=at, turn=turn, segments=12, rings=7)
    _eyes(shape, (0.62 * length, 0.66 * half, 0.22 * high), 0.115, (0.45, 1.0))
    shape.ellipsoid((0.07, 0.13, 0.05), "dark grey", "mouth", at=(0.93 * length, 0, -0.24 * high), segments=12, rings=7)


def _robot_limbs(shape: Shape, half: float, waist: float, top: float) -> None:
    """Add grey legs with dark feet below height `waist`, and grey arms with dark hands from height `top`."""
    for side in (-1.0, 1.0):
        y = 0.52 * side * half
        shape.rod((0, y, 0.1), (0, y, waist + 0.02), 0.105, "grey", "leg")
        shape.box((0.42, 0.27, 0.15), "dark grey", "foot", at=(0.07, y, 0.075))
        shoulder = (0, side * (half + 0.10), top - 0.14)
        _ball(shape, shoulder, 0.135, "dark grey", "shoulder")
        hand = (0.14, side * (half + 0.17), waist + 0.02)
        shape.rod(shoulder, hand, 0.085, "grey", "arm")
        _ball(shape, hand, 0.125, "dark grey", "hand")


def _robot_head(shape: Shape, rng: np.random.Generator, neck: float) -> None:
    """Add the head at height `neck`: yellow eyes and a grille mouth in front, ear bolts, antenna with a red ball."""
    size, high = jitter(rng, 0.56), jitter(rng, 0.42)
    middle, front = neck + high / 2, size * 0.43
    shape.rod((0, 0, neck - 0.1), (0, 0, neck + 0.02), 0.13, "dark grey", "neck")
    shape.box((size * 0.86, size, high), "main", "head", at=(0, 0, middle))
    for side in (-1.0, 1.0):
        y, z = side * 0.24 * size, middle + 0.14 * high
        shape.rod((front - 0.05, y, z), (front + 0.03, y, z), 0.115, "white", "eye", segments=14)
        shape.rod((front - 0.05, y, z), (front + 0.06, y, z), 0.065, "black", "pupil", segments=12)
        shape.rod(
            (0, side * 0.4 * size, middle), (0, side * (size / 2 + 0.09), middle), 0.10, "grey", "ear", segments=12
        )
    shape.box((0.08, 0.56 * size, 0.2 * high), "dark grey", "mouth", at=(front, 0, middle - 0.27 * high))
    shape.rod((0, 0, neck + high - 0.02), (0, 0, neck + high + 0.2), 0.05, "grey", "antenna", segments=10)
    _ball(shape, (0, 0, neck + high + 0.23), 0.095, "red", "antenna ball")


def robot(shape: Shape, rng: np.random.Generator) -> None:
    """A tin robot: body and head in the main colour, face and chest panel in front, a dark battery box at the back."""
    half, deep = jitter(rng, 0.36), jitter(rng, 0.46)
    waist = jitter(rng, 0.42)
    top = waist + jitter(rng, 0.70, 0.1)
    middle, front = (waist + top) / 2, deep / 2
    shape.box((deep, 2 * half, top - waist), "main", "body", at=(0, 0, middle))
    shape.box((0.06, 1.25 * half, 0.44 * (top - waist)), "light grey", "panel", at=(front, 0, middle + 0.06))
    for y, color in ((-0.36, "red"), (0.0, "lamp yellow"), (0.36, "leaf")):
        at = (front + 0.01, y * half, middle + 0.13)
        shape.rod((at[0] - 0.04, *at[1:]), (at[0] + 0.06, *at[1:]), 0.055, color, "button", segments=10)
    shape.box((0.10, 0.9 * half, 0.10), "dark grey", "slot", at=(front, 0, middle - 0.02))
    shape.box((0.16, 1.1 * half, 0.5 * (top - waist)), "dark grey", "battery", at=(-front - 0.03, 0, middle + 0.02))
    _robot_limbs(shape, half, waist, top)
    _robot_head(shape, rng, top + 0.07)


def _snow_face(shape: Shape, radius: float, z: float, coal: str) -> None:
    """Add the carrot, eyes of colour `coal` and hat of a head of `radius` centred at height `z`."""
    shape.rod((0.85 * radius, 0, z), (radius + 0.36, 0, z - 0.03), (0.095, 0.015), "orange", "nose", segments=12)
    for side in (-1.0, 1.0):
        _ball(shape, (0.84 * radius, side * 0.40 * radius, z + 0.34 * radius), 0.06, coal, "eye")
    brim, crown = 1.12 * radius, 0.74 * radius
    base = z + 0.66 * radius
    shape.lathe([(0, 0), (brim, 0), (brim, 0.06), (0, 0.06)], "black", "hat", at=(0, 0, base))
    shape.lathe([(0, 0), (crown, 0), (crown * 1.04, 0.36), (0, 0.36)], "black", "hat", at=(0, 0, base + 0.03))
    band = 1.05 * crown
    shape.lathe(
        [(crown * 0.9, 0), (band, 0), (band, 0.09), (crown * 0.9, 0.09)], "red", "hat band", at=(0, 0, base + 0.06)
    )


def snowman(shape: Shape, rng: np.random.Generator) -> None:
    """Three balls in the main colour, top hat, carrot nose, coal eyes and buttons in front, red scarf, twig arms."""
    low, middle, head = jitter(rng, 0.50, 0.1), jitter(rng, 0.36, 0.1), jitter(rng, 0.27, 0.1)
    z_low = 0.88 * low
    z_middle = z_low + 0.66 * (low + middle)
    z_head = z_middle + 0.80 * (middle + head)
    shape.ellipsoid((low, low, low), "main", "body", at=(0, 0, z_low), cut=(-0.88, 1.0))
    shape.ellipsoid((middle, middle, middle), "main", "body", at=(0, 0, z_middle))
    shape.ellipsoid((head, head, head), "main", "head", at=(0, 0, z_head), segments=18, rings=10)
    coal = "black" if max(shape.main) > 0.3 else "light grey"  # black on black would hide the front
    _snow_face(shape, head, z_head, coal)
    for lift in (-0.12, 0.34):
        x = middle * np.sqrt(1 - lift * lift)
        _ball(shape, (0.98 * x, 0, z_middle + lift * middle), 0.065, coal, "button")
    _ball(shape, (0.90 * low, 0, z_low + 0.36 * low), 0.065, coal, "button")
    neck = z_head - 0.74 * head
    shape.arc(0.80 * head, 0.075, 0, 360, "red", "scarf", at=(0, 0, neck), turn=rotation("x", 90))
    tail = (0.86 * middle, 0.50 * head, neck - 0.17)
    shape.box((0.10, 0.14, 0.34), "red", "scarf", at=tail, turn=rotation("y", -24))
    raise_arm = jitter(rng, 0.26, 0.4)
    for side in (-1.0, 1.0):
        start, end = (
            (0, 0.8 * side * middle, z_middle + 0.1),
            (0.05, side * (middle + 0.44), z_middle + 0.1 + raise_arm),
        )
        shape.rod(start, end, 0.055, "wood", "arm", segments=10)
        fork = (0.05, side * (middle + 0.25), z_middle + 0.1 + 0.58 * raise_arm)
        shape.rod(fork, (0.05, side * (middle + 0.30), fork[2] + 0.22), 0.045, "wood", "arm", segments=8)


def _guitar_outline(half: float, height: float) -> list[tuple[float, float]]:
    """Return the figure-of-eight body (x, z) of widest half-width `half`, standing on z = 0."""
    along = np.array(
        [0.015, 0.06, 0.12, 0.20, 0.29, 0.38, 0.46, 0.54, 0.60, 0.66, 0.73, 0.80, 0.87, 0.93, 0.975, 0.995]
    )
    across = [0.36, 0.66, 0.86, 0.98, 1.0, 0.92, 0.79, 0.67, 0.63, 0.65, 0.71, 0.75, 0.72, 0.61, 0.43, 0.24]
    right = [(float(half * w), float(height * h)) for w, h in zip(across, along, strict=True)]
    return [(0.0, 0.0), *right, (0.0, height), *[(-x, z) for x, z in reversed(right)]]


def _guitar_neck(shape: Shape, height: float, length: float, top: float) -> None:
    """Add the neck (dark in front, wood behind), headstock and pegs above a body of `height`; `top` is its front."""
    width, end = 0.19, height + length
    shape.box((0.13, width * 0.9, length + 0.1), "wood", "neck", at=(top - 0.07, 0, height + length / 2 - 0.05))
    shape.box((0.07, width, length + 0.26), "dark wood", "fretboard", at=(top + 0.02, 0, height + length / 2 - 0.13))
    shape.box((0.13, 0.26, 0.34), "wood", "headstock", at=(top - 0.03, 0, end + 0.15), taper=(1, 1.25))
    shape.box((0.10, width * 1.06, 0.05), "cream", "nut", at=(top + 0.02, 0, end - 0.02))
    for side in (-1.0, 1.0):
        for z in (0.08, 0.24):
            _ball(shape, (top - 0.03, side * 0.19, end + z), 0.06, "light grey", "peg")


def guitar(shape: Shape, rng: np.random.Generator) -> None:
    """An upright guitar: body in the main colour; sound hole, bridge and strings in front, plain back."""
    half, height, thick = jitter(rng, 0.56), jitter(rng, 1.20, 0.1), jitter(rng, 0.30)
    front = thick / 2
    shape.extrude(_guitar_outline(half, height), thick, "main", "body", turn=FACE_FRONT)
    length = jitter(rng, 0.64, 0.1)
    _guitar_neck(shape, height, length, front)
    hole, bridge = 0.60 * height, 0.26 * height
    shape.rod((front - 0.05, 0, hole), (front + 0.015, 0, hole), 0.43 * half, "cream", "rosette", segments=20)
    shape.rod((front - 0.05, 0, hole), (front + 0.03, 0, hole), 0.33 * half, "black", "sound hole", segments=20)
    shape.box((0.12, 0.95 * half, 0.10), "dark wood", "bridge", at=(front, 0, bridge))
    end = height + length - 0.03
    shape.box((0.04, 0.075, end - bridge), "light grey", "strings", at=(front + 0.06, 0, (end + bridge) / 2))


def duck(shape: Shape, rng: np.random.Generator) -> None:
    """A bath duck in the main colour: orange beak, eyes, folded wings, tail turned up at -X."""
    length, half, high = jitter(rng, 0.62, 0.1), jitter(rng, 0.43, 0.1), jitter(rng, 0.38)
    shape.ellipsoid((length, half, high), "main", "body", at=(0, 0, 0.7 * high), cut=(-0.7, 1.0), segments=24)
    lift = rotation("y", 38)
    shape.ellipsoid((0.34, 0.24, 0.11), "main", "tail", (-0.95 * length, 0, 1.15 * high), lift, segments=16, rings=8)
    head = jitter(rng, 0.30, 0.1)
    x, z = 0.56 * length, 1.45 * high + 0.88 * head
    shape.rod((0.48 * length, 0, 0.9 * high), (x, 0, z), (0.9 * head, 0.7 * head), "main", "neck")
    shape.ellipsoid((head, 0.94 * head, head), "main", "head", at=(x, 0, z), segments=18, rings=10)
    beak = x + 0.98 * head
    shape.ellipsoid((0.25, 0.17, 0.06), "orange", "beak", (beak, 0, z - 0.02), rotation("y", -10), segments=14, rings=6)
    shape.ellipsoid(
        (0.20, 0.14, 0.055), "orange", "beak", (beak - 0.02, 0, z - 0.10), rotation("y", 8), segments=14, rings=6
    )
    _eyes(shape, (x + 0.62 * head, 0.55 * head, z + 0.34 * head), 0.09, (1.0, 0.8))
    for side in (-1.0, 1.0):
        turn = rotation("z", side * 10) @ rotation("y", 16)
        at = (-0.16 * length, 0.92 * side * half, 0.92 * high)
        shape.ellipsoid((0.62 * length, 0.11, 0.55 * high), "main", "wing", at=at, turn=turn, segments=14, rings=8)


def _dog_head(shape: Shape, rng: np.random.Generator, at: tuple[float, float, float]) -> None:
    """Add head, cream snout with a black nose, eyes and hanging dark ears around the point `at`."""
    x, _, z = at
    size = jitter(rng, 0.29, 0.1)
    shape.ellipsoid((size, 0.92 * size, 0.95 * size), "main", "head", at=at, segments=18, rings=10)
    snout = jitter(rng, 0.25)
    shape.ellipsoid((snout, 0.16, 0.14), "cream", "snout", (x + 0.85 * size, 0, z - 0.09), segments=14, rings=8)
    _ball(shape, (x + 0.85 * size + 0.9 * snout, 0, z - 0.03), 0.085, "black", "nose")
    _eyes(shape, (x + 0.74 * size, 0.46 * size, z + 0.34 * size), 0.07, (1.0, 0.5))
    for side in (-1.0, 1.0):
        ear = (x - 0.12 * size, side * 0.95 * size, z - 0.02)
        turn = rotation("x", side * 14)
        shape.ellipsoid((0.15, 0.075, 0.27), "dark wood", "ear", at=ear, turn=turn, segments=12, rings=8)


def dog(shape: Shape, rng: np.random.Generator) -> None:
    """A standing dog in the main colour: snout and face at +X, red collar, cream paws, tail up at -X."""
    length, radius, leg = jitter(rng, 0.45, 0.1), jitter(rng, 0.28, 0.1), jitter(rng, 0.50)
    z = leg + 0.55 * radius
    path = [
        (1.18, 0.45),
        (1.1, 0.75),
        (0.75, 1.04),
        (0.0, 0.92),
        (-0.75, 0.98),
        (-1.08, 0.72),
        (-1.16, 0.4),
        (-1.18, 0.0),
    ]
    line = [(1.2 * length * p, 0.0, z) for p, _ in path]
    shape.tube(line, [radius * r for _, r in path], "main", "body", segments=16)
    for x in (-0.92 * length, 0.92 * length):
        for side in (-1.0, 1.0):
            y = side * 0.58 * radius
            shape.rod((x, y, 0.06), (x, y, z), (0.105, 0.14), "main", "leg", segments=12)
            shape.ellipsoid(
                (0.17, 0.125, 0.11), "cream", "paw", (x + 0.04, y, 0.04), cut=(-0.4, 1.0), segments=12, rings=6
            )
    neck, head = (0.95 * length, 0.0, z + 0.05), (1.32 * length, 0.0, z + radius + jitter(rng, 0.30))
    shape.rod(neck, head, (0.22, 0.17), "main", "neck")
    middle = 0.52 * np.asarray(neck) + 0.48 * np.asarray(head)
    direction = (np.asarray(head) - np.asarray(neck)) / np.linalg.norm(np.asarray(head) - np.asarray(neck))
    shape.rod(middle - 0.05 * direction, middle + 0.05 * direction, 0.225, "red", "collar", segments=16)
    _dog_head(shape, rng, head)
    wag = -1.25 * length
    curve = [(wag + 0.14, 0, z + 0.1), (wag - 0.06, 0, z + 0.18), (wag - 0.20, 0, z + 0.36), (wag - 0.22, 0, z + 0.60)]
    shape.tube(curve, [0.10, 0.09, 0.08, 0.05], "main", "tail")


BUILDERS = {"fish": fish, "robot": robot, "snowman": snowman, "guitar": guitar, "duck": duck, "dog": dog}
