"""Growing things: apple, mushroom, tree, cactus."""

from __future__ import annotations

import numpy as np

from sds3d.toybox.objects import jitter
from sds3d.toybox.shape import Shape, rotation


def apple(shape: Shape, rng: np.random.Generator) -> None:
    """An apple with a dimple, a wooden stem and one leaf towards +Y."""
    radius, height, dimple = jitter(rng, 0.52), jitter(rng, 0.46), jitter(rng, 0.2)
    angle = np.linspace(np.pi, 0, 19)
    wide = radius * np.sin(angle) * (1 + 0.13 * np.cos(angle))
    dent = dimple * np.exp(-((angle / 0.42) ** 2)) - 0.1 * np.exp(-(((np.pi - angle) / 0.35) ** 2))
    shape.lathe(np.stack([wide, height * np.cos(angle) - dent], axis=1), part="body", segments=28, smooth=True)
    low, tall, lean = height - dimple - 0.03, jitter(rng, 0.38), jitter(rng, 0.08, 0.5)
    bend = np.linspace(0, 1, 6)
    path = np.stack([0 * bend, -lean * bend**2, low + tall * bend], axis=1)
    shape.tube(path, np.linspace(0.04, 0.055, 6), "wood", "stem")
    shape.ellipsoid((0.055, 0.055, 0.03), "wood", "stem", at=path[-1], segments=10, rings=6)
    long = jitter(rng, 0.2)
    shape.ellipsoid(
        (0.095, long, 0.045),
        "leaf",
        "leaf",
        at=(0, long * 0.85, low + tall * 0.8),
        turn=rotation("x", 22),
        segments=16,
        rings=8,
    )


def mushroom(shape: Shape, rng: np.random.Generator) -> None:
    """A toadstool: domed cap in the main colour with white spots, cream stem."""
    radius, rise, stem, tall = (jitter(rng, 0.56), jitter(rng, 0.44), jitter(rng, 0.19), jitter(rng, 0.56))
    shape.lathe(
        [(0, 0), (stem * 1.25, 0), (stem * 1.3, 0.06), (stem, tall * 0.5), (stem * 0.95, tall + 0.1)],
        "cream",
        "stem",
        smooth=True,
    )
    shape.lathe(
        [(stem * 0.9, tall + 0.07), (radius * 0.6, tall - 0.01), (radius * 0.95, tall)], "cream", "gills", segments=32
    )
    shape.lathe([(radius * 0.94, tall - 0.005), (radius, tall + 0.06)], part="cap", segments=32, smooth=True)
    shape.ellipsoid(
        (radius, radius, rise), part="cap", at=(0, 0, tall + 0.06), cut=(0.0, 0.9999), segments=32, rings=10
    )
    start = rng.random() * 360
    for k in range(10):
        polar = 90.0 if k == 0 else (52.0 if k < 4 else 19.0)
        azimuth = start + (120 * k if k < 4 else 60 * k + 30)
        _spot(shape, (radius, rise, tall + 0.06), polar, azimuth, jitter(rng, 0.09, 0.2))


def _spot(shape: Shape, cap: tuple[float, float, float], polar: float, azimuth: float, size: float) -> None:
    """Stick a flat spot to the cap (radius, rise, height of its rim), facing outwards."""
    radius, rise, rim = cap
    along, up = np.cos(np.radians(polar)), np.sin(np.radians(polar))
    tilt = np.degrees(np.arctan2(along / radius, up / rise))
    turn = rotation("z", azimuth) @ rotation("y", tilt)
    at = rotation("z", azimuth) @ np.array([radius * along, 0, rise * up]) + [0, 0, rim]
    shape.ellipsoid((size, size, size * 0.4), "white", "spot", at=at, turn=turn, segments=12, rings=6)


def tree(shape: Shape, rng: np.random.Generator) -> None:
    """A fir of four drooping tiers on a wooden trunk."""
    trunk, wide, tall = jitter(rng, 0.12), jitter(rng, 0.46), jitter(rng, 1.05)
    bole = jitter(rng, 0.3)
    shape.lathe([(0, 0), (trunk * 1.2, 0), (trunk, bole + 0.1), (0, bole + 0.1)], "wood", "trunk", segments=16)
    tiers, step = 4, tall / 5.2
    for k in range(tiers):
        radius = wide * (1 - 0.2 * k) * jitter(rng, 1, 0.06)
        bottom, rise = bole + step * k, step * (2.2 if k == tiers - 1 else 1.9)
        shape.lathe(
            [(0, 0.1), (radius * 0.93, -0.01), (radius, 0.03), (radius * 0.5, rise * 0.48), (0, rise)],
            part="foliage",
            at=(0, 0, bottom),
            segments=24,
        )


def cactus(shape: Shape, rng: np.random.Generator) -> None:
    """A saguaro with two raised arms at +Y (low) and -Y (high) in a terracotta pot."""
    stem, tall, pot = jitter(rng, 0.16), jitter(rng, 0.95), jitter(rng, 0.3)
    deep = jitter(rng, 0.34)
    shape.lathe([(0, 0), (pot * 0.68, 0), (pot * 0.92, deep)], "terracotta", "pot")
    rim = [(pot * 0.85, 0), (pot * 1.1, 0), (pot * 1.1, 0.11), (pot * 0.9, 0.11), (pot * 0.9, 0.03)]
    shape.lathe(rim, "terracotta", "pot", at=(0, 0, deep - 0.05))
    shape.lathe([(pot * 0.95, deep + 0.02), (0, deep + 0.02)], "dark wood", "soil")
    dome = [(stem * np.cos(a), tall - stem + stem * np.sin(a)) for a in np.linspace(0, np.pi / 2, 7)]
    shape.lathe([(stem * 0.9, 0), (stem, tall * 0.5), *dome], part="body", at=(0, 0, deep), smooth=True)
    for side, share in ((1, 0.27), (-1, 0.45)):
        thick, reach, up = (jitter(rng, 0.095), stem + jitter(rng, 0.2), jitter(rng, 0.32))
        low, bend = deep + tall * share, np.linspace(0, np.pi / 2, 6)
        elbow = 0.13
        curve = [(reach - elbow + elbow * np.sin(a), low + elbow - elbow * np.cos(a)) for a in bend]
        line = [(0.0, low), *curve, (reach, low + up)]
        shape.tube([(0, side * y, z) for y, z in line], thick, part="arm", segments=14)
        shape.ellipsoid((thick, thick, thick), part="arm", at=(0, side * reach, low + up), segments=14, rings=8)


BUILDERS = {"apple": apple, "mushroom": mushroom, "tree": tree, "cactus": cactus}
