"""The words and colours of the toybox. Colours are sRGB in [0, 1]."""

from __future__ import annotations

NOUNS = (
    "chair", "table", "bed", "lamp", "mug", "teapot", "cake", "apple", "mushroom", "tree", "house", "castle",
    "car", "airplane", "rocket", "sailboat", "fish", "robot", "snowman", "guitar", "duck", "dog", "cactus", "umbrella",
)  # fmt: skip
ASYMMETRIC = ("chair", "bed", "mug", "teapot", "house", "car", "airplane", "robot", "snowman", "guitar", "duck", "dog")
"""Nouns whose views tell the azimuth; the others are left out of azimuth scores."""

COLORS = {
    "red": (0.85, 0.12, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "yellow": (0.95, 0.85, 0.12),
    "green": (0.13, 0.62, 0.18),
    "cyan": (0.15, 0.80, 0.85),
    "blue": (0.12, 0.25, 0.85),
    "purple": (0.50, 0.15, 0.72),
    "pink": (0.97, 0.52, 0.72),
    "brown": (0.45, 0.26, 0.11),
    "white": (0.96, 0.96, 0.96),
    "black": (0.07, 0.07, 0.08),
}
COLOR_JITTER = 0.03

ACCENTS = {
    "dark grey": (0.22, 0.22, 0.24),
    "grey": (0.55, 0.55, 0.57),
    "light grey": (0.78, 0.79, 0.80),
    "wood": (0.55, 0.34, 0.16),
    "light wood": (0.78, 0.58, 0.34),
    "dark wood": (0.34, 0.19, 0.08),
    "cream": (0.96, 0.90, 0.74),
    "white": (0.96, 0.96, 0.96),
    "black": (0.05, 0.05, 0.06),
    "window": (0.55, 0.78, 0.95),
    "lamp yellow": (1.00, 0.88, 0.35),
    "red": (0.85, 0.12, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "leaf": (0.20, 0.55, 0.15),
    "terracotta": (0.72, 0.38, 0.22),
    "roof": (0.40, 0.16, 0.12),
}
"""Fixed colours of the parts that do not carry the main colour."""


def is_held_out(noun: str, color: str) -> bool:
    """Return whether training never shows this pair: for noun i the colour (5 i + 3) mod 11 is kept for tests."""
    return list(COLORS).index(color) == (5 * NOUNS.index(noun) + 3) % len(COLORS)


def held_out_pairs() -> list[tuple[str, str]]:
    """Return the (noun, colour) pairs training never shows, one a noun."""
    return [(noun, color) for noun in NOUNS for color in COLORS if is_held_out(noun, color)]
